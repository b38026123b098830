"""PASCAL VOC 2007's metric, at COCO's ten IoU thresholds: what the paper's tables on VOC report (spec §2).

It differs from COCO's in three ways: precision is read at 11 recalls, not 101; a detection looks only at the
object that it overlaps most, and is a false positive if that one is taken, even where another is free; and
there is no limit of 100 detections an image.

Shapes: D detections of all images, T IoU thresholds (10), K classes, G objects of one image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from drcnn.data.annotations import Annotations
from drcnn.engine.metrics import IOU_THRESHOLDS, Metrics, summarise

__all__ = ["voc07_metrics"]

# In these very floats, as MMDetection has them: the fourth is a hair above 0.3, and a recall of exactly 3 in
# 10 does not reach it.
RECALLS: NDArray[np.float64] = np.arange(11, dtype=np.float64) * 0.1


def voc07_metrics(annotations: Annotations, detections: pa.Table) -> Metrics:
    """Return VOC 2007's 11-point average precision, mean over the classes that have an object to find.

    Objects marked ``ignore`` (VOC's difficult) need not be found, and a detection whose object is such a one
    counts neither for nor against. These are MMDetection 2.4's rules (``tpfp_default``, ``mode='11points'``),
    which the paper used: IoU without the "+1" of pixel counts, and a hit from the threshold on, inclusive.
    Equal scores rank in the order of the table.

    MMDetection also rounds the mean at each threshold to 3 decimals before it averages the ten; this does
    not, so AP may differ from its figure by 0.0005.

    Args:
        annotations: the split.
        detections: an Arrow table as ``drcnn.engine.evaluate`` describes it, in any order.

    Returns:
        The keys of ``coco_metrics`` except those of object sizes.
    """
    count = np.bincount(
        annotations.all_labels[~annotations.all_ignore], minlength=len(annotations.classes)
    )  # objects to find, of each class
    ap = np.full((len(IOU_THRESHOLDS), len(count)), np.nan)
    if count.any():
        ranked = _rank(annotations, detections)
        hits, misses = _decide(ranked)
        for label in np.flatnonzero(count):
            mine = ranked.labels == label
            ap[:, label] = _eleven_points(hits[:, mine], misses[:, mine], int(count[label]))
    return summarise(ap, annotations.classes)


@dataclass(frozen=True)
class _Ranked:
    """The detections of a split by falling score, each with the object of its class that it overlaps most.

    Attributes:
        labels: [D].
        overlaps: float64[D], IoU with that object; 0 if its image has none.
        objects: int64[D], position of that object among all objects of the split.
        ignored: bool[D], that object is marked ``ignore``.
    """

    labels: NDArray[np.int32]
    overlaps: NDArray[np.float64]
    objects: NDArray[np.int64]
    ignored: NDArray[np.bool_]


def _rank(annotations: Annotations, detections: pa.Table) -> _Ranked:
    order = np.argsort(-detections["score"].to_numpy(), kind="stable")
    labels = detections["label"].to_numpy()[order]
    boxes = np.stack([detections[side].to_numpy()[order] for side in ("x1", "y1", "x2", "y2")], axis=1)
    row_of = {image_id: row for row, image_id in enumerate(annotations.ids)}
    rows = np.array([row_of[image_id] for image_id in detections["image_id"].to_pylist()], dtype=np.int64)[
        order
    ]

    overlaps, objects = np.zeros(len(order)), np.zeros(len(order), dtype=np.int64)
    by_image = np.argsort(rows, kind="stable")
    starts = np.searchsorted(rows[by_image], np.arange(len(annotations) + 1))
    for row in np.unique(rows):
        first, last = annotations.offsets[row], annotations.offsets[row + 1]
        if first == last:
            continue
        here = by_image[starts[row] : starts[row + 1]]
        # Of two objects that are overlapped equally, argmax takes the first: the one that is not ignored.
        there = first + np.argsort(annotations.all_ignore[first:last], kind="stable")
        iou = _iou(boxes[here], annotations.all_boxes[there])
        iou[labels[here][:, None] != annotations.all_labels[there]] = 0
        best = iou.argmax(axis=1)
        overlaps[here] = iou[np.arange(len(here)), best]
        objects[here] = there[best]
    return _Ranked(labels, overlaps, objects, annotations.all_ignore[objects])


def _iou(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """float64[D, G] of boxes [D, 4] and [G, 4]; 0 where both are empty."""
    a, b = left.astype(np.float64)[:, None], right.astype(np.float64)[None]
    shared = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = shared.clip(min=0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - common
    iou: NDArray[np.float64] = common / np.maximum(union, 1e-6)
    return iou


def _decide(ranked: _Ranked) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """bool[T, D] true positives and bool[T, D] false positives; a detection may be neither."""
    near = ranked.overlaps >= IOU_THRESHOLDS[:, None]
    hits = np.zeros_like(near)
    for hit, candidates in zip(hits, near & ~ranked.ignored, strict=True):
        places = np.flatnonzero(candidates)
        # Of the detections near an object, the first finds it.
        _, first = np.unique(ranked.objects[places], return_index=True)
        hit[places[first]] = True
    return hits, ~hits & ~(near & ranked.ignored)


def _eleven_points(hits: NDArray[np.bool_], misses: NDArray[np.bool_], count: int) -> NDArray[np.float64]:
    """float64[T]: the mean, over 11 recalls, of the best precision at that recall or a higher one."""
    found = hits.cumsum(axis=1)
    recall = found / count
    precision = found / np.maximum(found + misses.cumsum(axis=1), 1)
    best = [np.where(recall >= least, precision, 0).max(axis=1, initial=0) for least in RECALLS]
    ap: NDArray[np.float64] = np.mean(best, axis=0)
    return ap
