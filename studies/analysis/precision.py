"""Average precision of stored detections when each image counts as often as one likes.

A bootstrap asks for the average precision (AP) of a thousand resamples of a test set. Which detection is
right is decided within an image and a class, so a resample changes no match, only how often the image counts.
Thus ``score_split`` matches once, and ``ScoredSplit.ap`` sums weights over detections in the order of their
scores: no approximation, no rerun of pycocotools.

    >>> split = score_split(annotations, pq.read_table("detections.parquet"))
    >>> float(split.ap().mean())  # COCO's AP
    0.412
    >>> split.ap(np.random.default_rng(0).multinomial(5000, np.full(5000, 1 / 5000), size=1000)).shape
    (1000, 10)

Shape shorthand: I images, B sets of weights, T the ten IoU thresholds, R recall points; of one class: D
detections, G objects, C correct detections.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from pycocotools import mask

from drcnn.data.annotations import Annotations
from drcnn.engine.metrics import AT_IOU, IOU_THRESHOLDS

__all__ = ["METRICS", "RECALL_POINTS", "Protocol", "ScoredClass", "ScoredSplit", "figures", "score_split"]

Protocol = Literal["coco", "voc07"]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Written as their authors wrote them: a recall or an overlap that lies on a point must fall on the same side.
COCO_THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
RECALL_POINTS: dict[Protocol, Floats] = {
    "coco": np.linspace(0.0, 1.0, 101),
    "voc07": np.arange(0, 1 + 1e-3, 0.1),
}
METRICS = {"AP": slice(None), **{name: slice(at, at + 1) for name, at in AT_IOU.items()}}
COCO_DETECTIONS = 100  # an image and class; more are left out
# Array elements handled at a time: 1 MiB stays in a core's cache.
BLOCK = 1 << 17


@dataclass(frozen=True)
class ScoredClass:
    """The detections of one class, by falling score.

    Attributes:
        image: int[D], each detection's image, 0 to I - 1.
        correct: bool[T, D], found an object that no better detection had found.
        ignored: bool[T, D], lies on an ignored object and counts as nothing; all others count as wrong.
        objects: int[G], the image of each object that is not ignored.
    """

    image: NDArray[np.intp]
    correct: Flags
    ignored: Flags
    objects: NDArray[np.intp]


@dataclass(frozen=True)
class ScoredSplit:
    """A split's detections, matched to its objects at the ten IoU thresholds 0.50, 0.55 ... 0.95.

    Attributes:
        images: how many the split has.
        recall_points: float[R], where the precision is averaged.
        classes: those that have an object which is not ignored.
    """

    images: int
    recall_points: Floats
    classes: tuple[ScoredClass, ...]

    def ap(self, weights: ArrayLike | None = None) -> Floats:
        """Return average precision at each IoU threshold: the mean over the classes that have objects.

        Args:
            weights: how often each image counts, [I] or [B, I], none negative; none means once.

        Returns:
            float[T] or float[B, T], fractions of 1; nan where no image with an object counts.

        Raises:
            ValueError: there is not one weight for each image.
        """
        counts = np.ones(self.images) if weights is None else np.asarray(weights)
        if counts.ndim not in (1, 2) or counts.shape[-1] != self.images:
            raise ValueError(
                f"weights has shape {counts.shape}; expected one for each of {self.images} images"
            )
        rows = np.atleast_2d(counts)
        total, present = np.zeros((len(rows), len(IOU_THRESHOLDS))), np.zeros((len(rows), 1))
        for scored in self.classes:
            step = max(1, BLOCK // max(len(scored.image), len(scored.objects), 1))
            for start in range(0, len(rows), step):
                block = slice(start, start + step)
                found, objects = _class_ap(scored, rows[block], self.recall_points)
                total[block] += found
                present[block, 0] += objects > 0
        with np.errstate(invalid="ignore"):
            mean = total / present
        return mean if counts.ndim == 2 else mean[0]


def figures(ap: Floats) -> dict[str, Floats]:
    """Return AP and AP50 ... AP90 of what ``ScoredSplit.ap`` gave, each with the shape [] or [B]."""
    return {name: ap[..., at].mean(axis=-1) for name, at in METRICS.items()}


def _class_ap(scored: ScoredClass, weights: NDArray[np.generic], points: Floats) -> tuple[Floats, Floats]:
    """Return one class's AP, float[B, T] (0 where no object counts), and its objects' weight, float[B]."""
    objects = weights.take(scored.objects, axis=1).sum(axis=1, dtype=float)
    weight = weights.take(scored.image, axis=1).astype(float)
    seen = weight.cumsum(axis=1)
    found = np.zeros((len(weights), len(IOU_THRESHOLDS)))
    for at, (correct, ignored) in enumerate(zip(scored.correct, scored.ignored, strict=True)):
        # Precision has its peaks, and recall its steps, at correct detections: nothing else is looked at.
        where = np.flatnonzero(correct)
        right = weight.take(where, axis=1).cumsum(axis=1)
        counted = seen.take(where, axis=1)
        if ignored.any():
            uncounted = np.flatnonzero(ignored)
            before = np.pad(weight.take(uncounted, axis=1).cumsum(axis=1), ((0, 0), (1, 0)))
            counted -= before.take(np.searchsorted(uncounted, where), axis=1)
        precision = right / np.maximum(counted, np.spacing(1))
        best_from_here = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = _points_reached(right / np.maximum(objects, np.spacing(1))[:, None], points)
        steps = np.diff(reached, axis=1, prepend=0)
        found[:, at] = np.einsum("bc,bc->b", best_from_here, steps) / len(points)
    found[objects == 0] = 0
    return found, objects


def _points_reached(recall: Floats, points: Floats) -> NDArray[np.intp]:
    """How many of the evenly spaced ``points`` are at most ``recall``; exact, without a search."""
    nearest = (recall * (len(points) - 1) + 0.5).astype(np.intp)
    return nearest + (points.take(nearest, mode="clip") <= recall)


def score_split(annotations: Annotations, detections: pa.Table, protocol: Protocol = "coco") -> ScoredSplit:
    """Match a split's detections to its objects.

    Args:
        annotations: the split.
        detections: columns as in ``drcnn.engine.evaluate``.
        protocol: "coco" is pycocotools (all areas, 100 detections an image and class, 101 recall points,
            ignored objects as crowds); "voc07" is mmdet 2.4's VOC2007 metric (11 recall points; a detection
            looks only at the object that it overlaps most).

    Raises:
        ValueError: a detection names an image that the split lacks.
    """
    rows = {image_id: row for row, image_id in enumerate(annotations.ids)}
    ids = detections["image_id"].to_pylist()
    if unknown := set(ids) - rows.keys():
        raise ValueError(f"detections are of another split: image {min(unknown)!r} is not in this one")
    image = np.fromiter((rows[image_id] for image_id in ids), np.intp, len(ids))
    corners = np.stack([detections[name].to_numpy() for name in ("x1", "y1", "x2", "y2")], axis=1)
    label, score = detections["label"].to_numpy(), detections["score"].to_numpy()
    # Stable: of equal scores the earlier image comes first, then the earlier row, as in pycocotools.
    order = np.lexsort((image, -score))
    image, label, boxes = image[order], label[order], _with_sides(corners[order])

    object_image = np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets))
    object_boxes = _with_sides(annotations.all_boxes)
    classes = []
    for number in range(len(annotations.classes)):
        mine = np.flatnonzero(annotations.all_labels == number)
        # Ignored objects last, where both protocols look for them.
        mine = mine[np.argsort(annotations.all_ignore[mine], kind="stable")]
        ignore = annotations.all_ignore[mine]
        if ignore.all():
            continue
        here = np.flatnonzero(label == number)
        if protocol == "coco":
            here = here[_place_in_group(image[here]) < COCO_DETECTIONS]
        correct = np.zeros((len(IOU_THRESHOLDS), len(here)), dtype=np.bool_)
        ignored = np.zeros_like(correct)
        for found, true in _by_image(image[here], object_image[mine]):
            crowd = ignore[true] if protocol == "coco" else np.zeros(len(true), dtype=np.bool_)
            overlaps = mask.iou(boxes[here[found]], object_boxes[mine[true]], crowd.astype(np.uint8))
            match = _match_coco if protocol == "coco" else _match_voc07
            correct[:, found], ignored[:, found] = match(overlaps, ignore[true])
        classes.append(ScoredClass(image[here], correct, ignored, object_image[mine[~ignore]]))
    return ScoredSplit(len(annotations), RECALL_POINTS[protocol], tuple(classes))


def _with_sides(corners: NDArray[np.float32]) -> Floats:
    """Float[N, 4]: x1, y1, width, height, as pycocotools takes them."""
    exact = corners.astype(float)
    return np.concatenate([exact[:, :2], exact[:, 2:] - exact[:, :2]], axis=1)


def _place_in_group(image: NDArray[np.intp]) -> NDArray[np.intp]:
    """int[D], how many earlier detections are of the same image."""
    order = np.argsort(image, kind="stable")
    starts = np.flatnonzero(np.diff(image[order], prepend=-1))
    sizes = np.diff(starts, append=len(image))
    place = np.empty_like(image)
    place[order] = np.arange(len(image)) - np.repeat(starts, sizes)
    return place


def _by_image(
    first: NDArray[np.intp], second: NDArray[np.intp]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """For each image that occurs in both, yield its positions in each, in order."""
    orders = [np.argsort(images, kind="stable") for images in (first, second)]
    common = np.intersect1d(first, second)
    left, right = (
        zip(
            np.searchsorted(images[order], common, "left"),
            np.searchsorted(images[order], common, "right"),
            strict=True,
        )
        for images, order in zip((first, second), orders, strict=True)
    )
    for a, b in zip(left, right, strict=True):
        yield orders[0][slice(*a)], orders[1][slice(*b)]


def _match_coco(overlaps: Floats, ignore: Flags) -> tuple[Flags, Flags]:
    """``COCOeval.evaluateImg`` for one image and class, all areas.

    Args:
        overlaps: [D, G], detections by falling score; over the detection's area where the object is a crowd.
        ignore: bool[G].

    Returns:
        bool[T, D] correct and bool[T, D] ignored.
    """
    limits = np.minimum(COCO_THRESHOLDS, 1 - 1e-10)[:, None]
    correct = np.zeros((len(limits), len(overlaps)), dtype=np.bool_)
    ignored = np.zeros_like(correct)
    free = np.repeat(~ignore[None], len(limits), axis=0)
    for place in np.flatnonzero(overlaps.max(axis=1) >= limits[0]):
        near = overlaps[place] >= limits
        candidates = np.where(near & free, overlaps[place], -1.0)
        # The best free object; of equal ones the last, as there.
        best = candidates.shape[1] - 1 - candidates[:, ::-1].argmax(axis=1)
        hit = candidates.max(axis=1) > 0
        correct[hit, place] = True
        free[hit, best[hit]] = False
        # A crowd takes any number of detections, but only those that no object wants.
        ignored[:, place] = ~hit & (near & ignore).any(axis=1)
    return correct, ignored


def _match_voc07(overlaps: Floats, ignore: Flags) -> tuple[Flags, Flags]:
    """mmdet 2.4's ``tpfp_default`` for one image and class; arguments and result as in ``_match_coco``."""
    correct = np.zeros((len(IOU_THRESHOLDS), len(overlaps)), dtype=np.bool_)
    ignored = np.zeros_like(correct)
    free = np.ones((len(IOU_THRESHOLDS), len(ignore)), dtype=np.bool_)
    nearest = overlaps.argmax(axis=1)
    for place in np.flatnonzero(overlaps.max(axis=1) >= IOU_THRESHOLDS[0]):
        target = nearest[place]
        hit = overlaps[place, target] >= IOU_THRESHOLDS
        if ignore[target]:
            ignored[:, place] = hit
        else:
            correct[:, place] = hit & free[:, target]
            free[:, target] &= ~hit
    return correct, ignored
