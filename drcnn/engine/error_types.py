"""Why detections are wrong, and how much average precision (AP) each reason costs.

The six types are those of Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors",
ECCV 2020. A wrong detection is of the first that holds:

- localisation: its greatest IoU with an object of its class is from 0.1 to below 0.5;
- class: it has an IoU from 0.5 with an object of another class;
- duplicate: it has an IoU from 0.5 with an object of its class, which a better detection has found;
- background: it overlaps no object by more than 0.1;
- both: what is left, which is near an object of another class, at an IoU from 0.1 to below 0.5.

An object is missed if no detection finds it, and none is near it with the wrong class or place only.

The AP lost by a type is what AP at IoU 0.5 would gain if an oracle corrected all errors of this type and
nothing else: it gives a detection the class or the place of its object, if no detection has found that one,
and of several such detections only to that of the highest score; it removes all others; missed objects need
not be found. As each type is corrected alone, the losses do not add up to 100 - AP50.

Differences from the authors' code: a class whose objects are all missed counts as AP 1 after the correction
if nothing wrong is left in it, where theirs leaves it out of the mean; matching is that of the metric.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from drcnn.engine.ap_matching import ScoredClass
from drcnn.engine.average_precision import ScoredSplit
from drcnn.engine.judged_detections import FOREGROUND_IOU, JudgedDetections, NearPairs
from drcnn.engine.metrics import mean_of_present

__all__ = ["ERROR_TYPES", "ErrorType", "ErrorTypes", "find_errors"]

ErrorType = Literal["class", "localisation", "both", "duplicate", "background", "missed"]
ERROR_TYPES: tuple[ErrorType, ...] = get_args(ErrorType)

Positions = NDArray[np.intp]


@dataclass(frozen=True)
class ErrorTypes:
    """The errors of a split's D detections, as ``JudgedDetections`` has them, and of its O objects.

    Attributes:
        judged: the detections.
        of_detection: for each type but ``missed``, the detections of this type, int[], places of D.
        target: int[D], the object that a detection of ``class`` or ``localisation`` means; else -1.
        missed: int[], the objects that are missed, of O.
    """

    judged: JudgedDetections
    of_detection: dict[ErrorType, Positions]
    target: Positions
    missed: Positions

    @property
    def counts(self) -> dict[ErrorType, int]:
        """How many errors there are of each type."""
        found = {**self.of_detection, "missed": self.missed}
        return {kind: len(found[kind]) for kind in ERROR_TYPES}

    def lost(self) -> dict[ErrorType, float]:
        """Return the AP at IoU 0.5, a fraction of 1, that each type costs."""
        now = self.ap50_without([])
        return {kind: self.ap50_without([kind]) - now for kind in ERROR_TYPES}

    def ap50_without(self, kinds: Collection[ErrorType]) -> float:
        """Return AP at IoU 0.5 if an oracle corrected these types; nan if there is no object to find."""
        judged = self.judged
        label, right, removed = judged.label.copy(), judged.is_right.copy(), np.zeros_like(judged.is_wrong)
        for kind in kinds:
            removed[self.of_detection.get(kind, [])] = True
        corrected = self._corrected(kinds)
        removed[corrected], right[corrected] = False, True
        label[corrected] = judged.object_label[self.target[corrected]]
        to_find = judged.to_find.copy()
        had = np.bincount(judged.object_label[to_find], minlength=len(judged.split.classes))
        if "missed" in kinds:
            to_find[self.missed] = False
        left = np.bincount(judged.object_label[to_find], minlength=len(judged.split.classes))

        counts = ~removed & (right | judged.is_wrong)
        ap = np.full(len(left), np.nan)
        for number in np.flatnonzero(had):
            flags = right[counts & (label == number)]
            if left[number]:
                ap[number] = _ap(flags, left[number], judged.split.recall_points)
            else:
                ap[number] = 0.0 if flags.size else 1.0
        return mean_of_present(ap)

    def _corrected(self, kinds: Collection[ErrorType]) -> Positions:
        """The detections that become right: for each object that none finds the best that means it."""
        meant = [self.of_detection[kind] for kind in ("class", "localisation") if kind in kinds]
        places = np.sort(np.concatenate([np.zeros(0, np.intp), *meant]))
        places = places[~np.isin(self.target[places], self.judged.taken[self.judged.is_right])]
        return places[np.unique(self.target[places], return_index=True)[1]]


def find_errors(judged: JudgedDetections) -> ErrorTypes:
    """Sort a split's wrong detections and the objects that none finds into the six types."""
    count = len(judged.row)
    iou_same, same = _nearest(judged.near.select(judged.near.is_same), count)
    iou_other, other = _nearest(judged.near.select(~judged.near.is_same), count)
    conditions: dict[ErrorType, NDArray[np.bool_]] = {
        "localisation": (same >= 0) & (iou_same < FOREGROUND_IOU),
        "class": iou_other >= FOREGROUND_IOU,
        "duplicate": iou_same >= FOREGROUND_IOU,
        "background": (same < 0) & (other < 0),
        "both": np.ones(count, dtype=np.bool_),
    }
    left = judged.is_wrong.copy()
    of_detection: dict[ErrorType, Positions] = {}
    for kind, holds in conditions.items():
        of_detection[kind] = np.flatnonzero(left & holds)
        left &= ~holds
    target = np.full(count, -1)
    target[of_detection["localisation"]] = same[of_detection["localisation"]]
    target[of_detection["class"]] = other[of_detection["class"]]

    unseen = judged.to_find.copy()
    unseen[judged.taken[judged.is_right]] = False
    unseen[target[target >= 0]] = False
    return ErrorTypes(judged, of_detection, target, np.flatnonzero(unseen))


def _nearest(pairs: NearPairs, count: int) -> tuple[NDArray[np.float64], Positions]:
    """float[D], the greatest IoU of each detection, 0 without a pair; int[D], the object, -1 without."""
    iou, target = np.zeros(count), np.full(count, -1)
    order = np.lexsort((pairs.iou, pairs.detection))  # of each detection the last is the greatest
    iou[pairs.detection[order]] = pairs.iou[order]
    target[pairs.detection[order]] = pairs.target[order]
    return iou, target


def _ap(right: NDArray[np.bool_], objects: int, recall_points: NDArray[np.float64]) -> float:
    """Return AP of one class's detections, by falling score, with this many objects to find."""
    rows = np.arange(len(right))
    one_image = np.zeros(len(right), np.intp)
    found = ScoredClass(
        one_image,
        right[None],
        np.zeros_like(right)[None],
        np.zeros(objects, np.intp),
        -rows.astype(float),
        rows,
        rows,
    )
    return float(ScoredSplit(1, recall_points, (found,)).class_ap()[0, 0])
