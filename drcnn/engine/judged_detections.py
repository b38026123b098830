"""What became of each detection of a split at IoU 0.5: right, wrong or neither, and which objects it is near.

Average precision needs no more than how many are right; to see what is wrong with a detector, one asks which.

Shape shorthand: D detections that count, all classes together by falling score; P pairs of a detection and an
object of the same image; O all boxes of the annotations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from drcnn.data.annotations import Annotations
from drcnn.engine.ap_matching import Detections, Objects, near_pairs
from drcnn.engine.average_precision import Protocol, ScoredSplit, ranked_boxes, score_split

__all__ = ["BACKGROUND_IOU", "FOREGROUND_IOU", "JudgedDetections", "NearPairs", "judge"]

Positions = NDArray[np.intp]
Flags = NDArray[np.bool_]

FOREGROUND_IOU = 0.5
BACKGROUND_IOU = 0.1


@dataclass(frozen=True)
class NearPairs:
    """Wrong detections, each with the objects to find that it overlaps by ``BACKGROUND_IOU`` or more.

    Attributes:
        detection: int[P], of D.
        target: int[P], the object, of O.
        iou: float[P].
        is_same: bool[P], both are of one class.
    """

    detection: Positions
    target: Positions
    iou: NDArray[np.float64]
    is_same: Flags

    def select(self, chosen: Flags) -> NearPairs:
        """Return some of the pairs."""
        return NearPairs(self.detection[chosen], self.target[chosen], self.iou[chosen], self.is_same[chosen])


@dataclass(frozen=True)
class JudgedDetections:
    """The detections that the metric counts, by falling score.

    Attributes:
        split: the same, as average precision is computed from them.
        row: int[D], of the table of detections.
        image: int[D], row of the image.
        label: int[D], class.
        score: float[D].
        boxes: float[D, 4], xyxy in pixels of the image.
        taken: int[D], the object of O that each finds; -1 for none.
        is_wrong: bool[D], finds none and counts against the detector: not on an object marked ``ignore``.
        near: of the wrong ones.
        to_find: bool[O], the objects that are not marked ``ignore``.
        object_label: int[O], class.
        object_image: int[O], row of the image.
    """

    split: ScoredSplit
    row: Positions
    image: Positions
    label: Positions
    score: NDArray[np.floating]
    boxes: NDArray[np.float64]
    taken: Positions
    is_wrong: Flags
    near: NearPairs
    to_find: Flags
    object_label: NDArray[np.int32]
    object_image: Positions

    @property
    def is_right(self) -> Flags:
        """bool[D], finds an object of its class that no better detection finds."""
        return self.taken >= 0


def judge(annotations: Annotations, detections: pa.Table, protocol: Protocol = "coco") -> JudgedDetections:
    """Match a split's detections to its objects by the rule of the metric.

    Args:
        annotations: the split.
        detections: an Arrow table as ``drcnn.engine.evaluate`` describes it.
        protocol: the metric, as for ``score_split``.

    Raises:
        ValueError: a detection names an image that the split lacks.
    """
    split = score_split(annotations, detections, protocol)
    ranked, objects = ranked_boxes(annotations, detections)
    taken, is_wrong = np.full(len(ranked.row), -1), np.zeros(len(ranked.row), dtype=np.bool_)
    counts = np.zeros(len(ranked.row), dtype=np.bool_)
    for scored in split.classes:
        counts[scored.row] = True
        taken[scored.row] = scored.taken
        is_wrong[scored.row] = ~scored.correct[0] & ~scored.ignored[0]
    kept = ranked.select(counts[ranked.row])
    wrong = is_wrong[kept.row]
    return JudgedDetections(
        split,
        kept.row,
        kept.image,
        kept.label.astype(np.intp),
        kept.score,
        np.concatenate([kept.sides[:, :2], kept.sides[:, :2] + kept.sides[:, 2:]], axis=1),
        taken[kept.row],
        wrong,
        _near(kept, wrong, objects.select(~objects.ignore)),
        ~annotations.all_ignore,
        annotations.all_labels,
        objects.image,
    )


def _near(kept: Detections, wrong: Flags, objects: Objects) -> NearPairs:
    places = np.flatnonzero(wrong)
    chosen = kept.select(places)
    detection, target, iou = near_pairs(chosen, objects, np.zeros_like(objects.ignore), BACKGROUND_IOU)
    is_same = chosen.label[detection] == objects.label[target]
    return NearPairs(places[detection], objects.row[target], iou, is_same)
