"""Whether two detectors find the same: only then does it mean anything which is faster."""

from __future__ import annotations

from torch import Tensor

from drcnn.detector.boxes import pairwise_iou
from drcnn.detector.postprocess import Detections

__all__ = ["share_found"]

IOU = 0.9
SCORE = 0.05


def share_found(ours: Detections, theirs: Detections) -> float:
    """Return the share of the detections of both that the other has too; 1 if neither found any.

    A detection is found if the other has one of the same image and class with an IoU of at least 0.9 whose
    score differs by at most 0.05.
    """
    ours, theirs = (Detections(*(value.cpu() for value in found)) for found in (ours, theirs))
    same: Tensor = pairwise_iou(ours.boxes, theirs.boxes) >= IOU
    same = same & (ours.image[:, None] == theirs.image) & (ours.labels[:, None] == theirs.labels)
    same = same & ((ours.scores[:, None] - theirs.scores).abs() <= SCORE)
    found, total = int(same.any(dim=1).sum() + same.any(dim=0).sum()), sum(same.shape)
    return found / total if total else 1.0
