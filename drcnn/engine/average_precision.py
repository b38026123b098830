"""Average precision (AP) of a split's detections, also when each image counts with a weight of its own.

A bootstrap needs the AP of a thousand resamples of the test images. Which detections are correct is decided
within an image and a class, so a resample changes no match, only how often each image counts. Thus
``score_split`` matches once, and ``ScoredSplit.ap`` sums weights over the detections by falling score.
Evaluation (``coco_metrics``, ``voc07_metrics``) is the case in which every image counts once.

AP depends on the order of equal scores, and so on that of an image's copies. Detections of equal score rank
by image, then by row of their table; an image that counts three times stands there as three images in a row,
each with its own detections in this order. A weighted AP is thus exactly the AP of the resampled data set.

    >>> from drcnn.data.annotations import Record
    >>> image = Record("a", 640, 480, boxes=[[0, 0, 100, 100]], labels=[0], path="a.jpg")
    >>> annotations = Annotations.from_records([image], classes=["cat"])
    >>> detections = pa.table(
    ...     {"image_id": ["a"], "label": [0], "score": [0.9], "x1": [0], "y1": [0], "x2": [100], "y2": [82]}
    ... )
    >>> coco_metrics(annotations, detections).per_class  # IoU 0.82: correct at 7 of 10 thresholds
    {'cat': 0.7}
    >>> score_split(annotations, detections).ap([[1], [3]]).shape
    (2, 10)

Shape shorthand: I images, B sets of weights, T the ten IoU thresholds, R recall points, K classes; of one
class: D detections, C correct detections.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from drcnn.data.annotations import Annotations
from drcnn.engine.ap_matching import (
    COCO_AREAS,
    Detections,
    Objects,
    ScoredClass,
    match_coco,
    match_voc07,
)
from drcnn.engine.ap_ties import copy_tied
from drcnn.engine.metrics import AT_IOU, IOU_THRESHOLDS, Metrics, mean_of_present, summarise

__all__ = [
    "METRICS",
    "RECALL_POINTS",
    "Protocol",
    "ScoredClass",
    "ScoredSplit",
    "coco_metrics",
    "figures",
    "ranked_boxes",
    "score_split",
    "voc07_metrics",
]

Protocol = Literal["coco", "voc07"]
Floats = NDArray[np.float64]

# The very floats of pycocotools and MMDetection: VOC2007's fourth point is slightly above 0.3, and a recall
# of exactly 3 in 10 does not reach it.
RECALL_POINTS: dict[Protocol, Floats] = {
    "coco": np.linspace(0.0, 1.0, 101),
    "voc07": np.arange(11, dtype=np.float64) * 0.1,
}
METRICS = {"AP": slice(None), **{name: slice(at, at + 1) for name, at in AT_IOU.items()}}
# Array elements handled at a time: 1 MiB stays in a core's cache.
BLOCK = 1 << 17


@dataclass(frozen=True)
class ScoredSplit:
    """A split's detections, matched to its objects at the ten IoU thresholds 0.50, 0.55 ... 0.95.

    Attributes:
        images: their number.
        recall_points: float[R], evenly spaced from 0 to 1; AP is the mean of the precision at these.
        classes: K, in the order of the split's classes.
    """

    images: int
    recall_points: Floats
    classes: tuple[ScoredClass, ...]

    def ap(self, weights: ArrayLike | None = None) -> Floats:
        """Return average precision at each IoU threshold: the mean over the classes that have objects.

        Args:
            weights: how often each image counts, whole numbers [I] or [B, I], none negative; None means once.

        Returns:
            float[T] or float[B, T], fractions of 1; nan where no image with an object counts.

        Raises:
            ValueError: there is not one weight for each image, or one is not a whole number.
        """
        counts = np.ones(self.images) if weights is None else np.asarray(weights)
        if counts.ndim not in (1, 2) or counts.shape[-1] != self.images:
            raise ValueError(
                f"weights has shape {counts.shape}; expected one for each of {self.images} images"
            )
        if (counts != np.round(counts)).any() or (counts < 0).any():
            raise ValueError("weights must be whole numbers from 0: how often each image counts")
        rows = np.atleast_2d(counts)
        most = int(rows.max(initial=0))
        total, present = np.zeros((len(rows), len(IOU_THRESHOLDS))), np.zeros((len(rows), 1))
        for scored in self.classes:
            copied, copy = copy_tied(scored, most)
            step = max(1, BLOCK // max(len(copied.image), len(copied.objects), 1))
            for start in range(0, len(rows), step):
                block = slice(start, start + step)
                class_ap = _class_ap(copied, copy, rows[block], self.recall_points)
                total[block] += np.nan_to_num(class_ap)
                present[block] += ~np.isnan(class_ap[:, :1])
        with np.errstate(invalid="ignore"):
            mean = total / present
        return mean if counts.ndim == 2 else mean[0]

    def class_ap(self) -> Floats:
        """Return float[T, K], AP of each class, each image counted once; nan where a class has no object."""
        once = np.ones((1, self.images))
        rows = [_class_ap(scored, None, once, self.recall_points)[0] for scored in self.classes]
        return np.array(rows).reshape(-1, len(IOU_THRESHOLDS)).T


def coco_metrics(annotations: Annotations, detections: pa.Table) -> Metrics:
    """Return COCO's metrics of boxes, as pycocotools computes them.

    AP is the mean over IoU 0.50:0.05:0.95 and the classes that have objects. Of each image and class, the
    100 detections of the highest scores count. Objects marked ``ignore`` (VOC's difficult, COCO's crowd) are
    COCO's crowds: a detection on one counts neither for nor against.

    Args:
        annotations: the split.
        detections: an Arrow table as ``drcnn.engine.evaluate`` describes it, in any order.
    """
    splits = _score_coco(annotations, detections, COCO_AREAS)
    metrics = summarise(splits["all"].class_ap(), annotations.classes)
    sizes = {f"AP_{area}": mean_of_present(splits[area].class_ap()) for area in ("small", "medium", "large")}
    present = {name: value for name, value in sizes.items() if not np.isnan(value)}
    return replace(metrics, summary={**metrics.summary, **present})


def voc07_metrics(annotations: Annotations, detections: pa.Table) -> Metrics:
    """Return PASCAL VOC 2007's metrics at COCO's IoU thresholds, which the paper's tables on VOC report.

    They differ from COCO's in three ways: the precision is read at 11 recalls, not 101; a detection looks
    only at the object that it overlaps most; and there is no limit of 100 detections. Objects marked
    ``ignore`` need not be found, and a detection whose object is one counts neither for nor against. These
    are MMDetection 2.4's rules (``tpfp_default``, ``mode='11points'``), which the paper used: IoU without
    the "+1" of pixel counts, correct from the threshold on, inclusive. Equal scores rank by image, as its
    detections are gathered image by image, then in the order of the table.

    MMDetection also rounds the mean at each threshold to 3 decimals before it averages the ten. This
    function does not, so AP may differ from MMDetection's by 0.0005.

    Args:
        annotations: the split.
        detections: an Arrow table as ``drcnn.engine.evaluate`` describes it, in any order.

    Returns:
        The keys of ``coco_metrics`` except those of object sizes.
    """
    return summarise(score_split(annotations, detections, "voc07").class_ap(), annotations.classes)


def figures(ap: Floats) -> dict[str, Floats]:
    """Return AP and AP50 ... AP90 from the result of ``ScoredSplit.ap``, each of shape [] or [B]."""
    return {name: ap[..., at].mean(axis=-1) for name, at in METRICS.items()}


def score_split(annotations: Annotations, detections: pa.Table, protocol: Protocol = "coco") -> ScoredSplit:
    """Match a split's detections to its objects, of all areas.

    Args:
        annotations: the split.
        detections: columns as in ``drcnn.engine.evaluate``.
        protocol: "coco" as in ``coco_metrics`` or "voc07" as in ``voc07_metrics``.

    Raises:
        ValueError: a detection names an image that the split lacks.
    """
    if protocol == "coco":
        return _score_coco(annotations, detections, {"all": COCO_AREAS["all"]})["all"]
    classes = tuple(match_voc07(*boxes) for boxes in _boxes_by_class(annotations, detections))
    return ScoredSplit(len(annotations), RECALL_POINTS[protocol], classes)


def _score_coco(
    annotations: Annotations, detections: pa.Table, areas: dict[str, tuple[float, float]]
) -> dict[str, ScoredSplit]:
    """Match a split for each of several area ranges."""
    by_class = _boxes_by_class(annotations, detections)
    classes = [match_coco(*boxes, list(areas.values())) for boxes in by_class]
    return {
        area: ScoredSplit(len(annotations), RECALL_POINTS["coco"], tuple(scored[at] for scored in classes))
        for at, area in enumerate(areas)
    }


def ranked_boxes(annotations: Annotations, detections: pa.Table) -> tuple[Detections, Objects]:
    """Return the detections, by falling score, and the objects of all classes.

    Raises:
        ValueError: a detection names an image that the split lacks.
    """
    row_of = {image_id: row for row, image_id in enumerate(annotations.ids)}
    ids = detections["image_id"].to_pylist()
    if unknown := set(ids) - row_of.keys():
        raise ValueError(f"detections are of another split: image {min(unknown)!r} is not in this one")
    image = np.fromiter((row_of[image_id] for image_id in ids), np.intp, len(ids))
    label, score = detections["label"].to_numpy(), detections["score"].to_numpy()
    sides = _with_sizes(np.stack([detections[name].to_numpy() for name in ("x1", "y1", "x2", "y2")], axis=1))
    # Of equal scores the earlier image ranks first, then the earlier row.
    ranked = Detections(np.arange(len(ids)), label, image, sides, sides[:, 2] * sides[:, 3], score).select(
        np.lexsort((image, -score))
    )
    objects = Objects(
        np.arange(len(annotations.all_labels)),
        annotations.all_labels,
        np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets)),
        _with_sizes(annotations.all_boxes),
        annotations.all_areas.astype(float),
        annotations.all_ignore,
    )
    return ranked, objects


def _boxes_by_class(annotations: Annotations, detections: pa.Table) -> Iterator[tuple[Detections, Objects]]:
    """Yield the detections, by falling score, and the objects of each class."""
    ranked, objects = ranked_boxes(annotations, detections)
    for number in range(len(annotations.classes)):
        yield ranked.select(ranked.label == number), objects.select(objects.label == number)


def _with_sizes(corners: NDArray[np.floating]) -> Floats:
    """float[N, 4]: x1, y1, width and height."""
    exact = corners.astype(float)
    return np.concatenate([exact[:, :2], exact[:, 2:] - exact[:, :2]], axis=1)


def _class_ap(
    scored: ScoredClass, copy: NDArray[np.intp] | None, weights: NDArray[np.generic], points: Floats
) -> Floats:
    """Return one class's AP for each set of weights, float[B, T]; nan where no object counts.

    Args:
        scored, copy: the detections and which copies they are, from ``copy_tied``.
        weights: [B, I], how often each image counts.
        points: the recalls at which the precision is read.
    """
    objects = weights.take(scored.objects, axis=1).sum(axis=1, dtype=float)
    weight = weights.take(scored.image, axis=1).astype(float)
    if copy is not None:
        written = np.flatnonzero(copy >= 0)
        weight[:, written] = weight[:, written] > copy[written]
    counted_so_far = weight.cumsum(axis=1)
    ap = np.zeros((len(weights), len(IOU_THRESHOLDS)))
    for at, (correct, ignored) in enumerate(zip(scored.correct, scored.ignored, strict=True)):
        # Precision has its peaks, and recall its steps, at correct detections: nothing else is looked at.
        places = np.flatnonzero(correct)
        right = weight.take(places, axis=1).cumsum(axis=1)
        counted = counted_so_far.take(places, axis=1)
        if ignored.any():
            uncounted = np.flatnonzero(ignored)
            before = np.pad(weight.take(uncounted, axis=1).cumsum(axis=1), ((0, 0), (1, 0)))
            counted -= before.take(np.searchsorted(uncounted, places), axis=1)
        precision = right / np.maximum(counted, np.spacing(1))
        best_from_here = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = _points_reached(right / np.maximum(objects, np.spacing(1))[:, None], points)
        steps = np.diff(reached, axis=1, prepend=0)
        ap[:, at] = np.einsum("bc,bc->b", best_from_here, steps) / len(points)
    ap[objects == 0] = np.nan
    return ap


def _points_reached(recall: Floats, points: Floats) -> NDArray[np.intp]:
    """How many of the evenly spaced ``points`` are at most ``recall``; exact, without a search."""
    nearest = (recall * (len(points) - 1) + 0.5).astype(np.intp)
    return nearest + (points.take(nearest, mode="clip") <= recall)
