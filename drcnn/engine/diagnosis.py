"""What is wrong with a detector: AP by class, errors by type, confusions, and the images where it is worst.

It is computed from a split's annotations and stored detections alone::

    annotations = Annotations.load(prepared.test)
    judged = judge(annotations, pq.read_table("detections.parquet"), "coco")
    diagnosis = diagnose(annotations, judged)
    diagnosis.lost["missed"]  # AP at IoU 0.5 that missed objects cost

Figures are fractions of 1. Shape shorthand: K classes, R recalls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drcnn.data.annotations import Annotations
from drcnn.engine.ap_matching import ScoredClass
from drcnn.engine.average_precision import RECALL_POINTS, ScoredSplit
from drcnn.engine.error_types import ErrorType, find_errors
from drcnn.engine.judged_detections import FOREGROUND_IOU, JudgedDetections
from drcnn.engine.metrics import AT_IOU, mean_of_present

__all__ = [
    "CURVE_IOUS",
    "MOST_IMAGES",
    "RECALLS",
    "Diagnosis",
    "best_score",
    "confusion_matrix",
    "diagnose",
    "image_curves",
    "images_to_rank",
    "rank_images",
]

Floats = NDArray[np.float64]

CURVE_IOUS = {0.5: AT_IOU["AP50"], 0.75: AT_IOU["AP75"]}
RECALLS = RECALL_POINTS["coco"]
# What a detection must score where none is right, whatever the score.
SCORE_OF_NONE = 0.5
# Ranking all 5,000 images of COCO would take minutes.
MOST_IMAGES = 500


@dataclass(frozen=True)
class Diagnosis:
    """A split's detections in figures.

    Attributes:
        classes: K names.
        objects: int[K], how many there are to find.
        ap: float[K], AP of each class, mean over IoU 0.50:0.05:0.95; nan for a class without objects.
        ap50: float[K], at IoU 0.5.
        precision: at IoU 0.5 and 0.75, float[K, 101], the highest precision at each recall 0, 0.01 ... 1 or
            above; nan for a class without objects.
        errors: how many there are of each type of TIDE's.
        lost: the AP at IoU 0.5 that each type costs.
        score: of a detection that counts in ``confusion``: that of the highest F1 of the split.
        f1: at that score and IoU 0.5.
        confusion: int[K + 1, K + 1], true class by detected class at that score and IoU 0.5; the last row is
            of detections on no object, the last column of objects that were missed.
    """

    classes: tuple[str, ...]
    objects: NDArray[np.intp]
    ap: Floats
    ap50: Floats
    precision: dict[float, Floats]
    errors: dict[ErrorType, int]
    lost: dict[ErrorType, float]
    score: float
    f1: float
    confusion: NDArray[np.intp]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON has it; a class without objects has null for its AP."""
        curves = {
            f"{iou:g}": {name: _or_null(row) for name, row in zip(self.classes, rows, strict=True)}
            for iou, rows in self.precision.items()
        }
        return {
            "classes": {
                name: {"objects": int(self.objects[at]), "AP": ap, "AP50": ap50}
                for at, (name, ap, ap50) in enumerate(
                    zip(self.classes, _or_null(self.ap), _or_null(self.ap50), strict=True)
                )
            },
            "errors": {
                kind: {"count": count, "AP50_lost": self.lost[kind]} for kind, count in self.errors.items()
            },
            "precision_at_recall": {"recall": RECALLS.tolist(), "iou": curves},
            "confusion": {
                "score": self.score,
                "iou": FOREGROUND_IOU,
                "f1": self.f1,
                "true": [*self.classes, "background"],
                "detected": [*self.classes, "missed"],
                "counts": self.confusion.tolist(),
            },
        }


def diagnose(annotations: Annotations, judged: JudgedDetections) -> Diagnosis:
    """Find out what is wrong with a split's detections.

    Args:
        annotations: the split; it has an object to find.
        judged: a detector's detections there.

    Raises:
        ValueError: there is no object.
    """
    if annotations.all_ignore.all():
        raise ValueError("the split has no object to find: nothing can be said about a detector")
    errors = find_errors(judged)
    class_ap = judged.split.class_ap()
    score, f1 = best_score(judged)
    return Diagnosis(
        classes=annotations.classes,
        objects=np.array([len(scored.objects) for scored in judged.split.classes]),
        ap=np.array([mean_of_present(column) for column in class_ap.T]),
        ap50=class_ap[0],
        precision={
            iou: np.stack([_precision(scored, at) for scored in judged.split.classes])
            for iou, at in CURVE_IOUS.items()
        },
        errors=errors.counts,
        lost=errors.lost(),
        score=score,
        f1=f1,
        confusion=confusion_matrix(judged, score),
    )


def best_score(judged: JudgedDetections) -> tuple[float, float]:
    """Return the score, in hundredths, from which detections have the highest F1 at IoU 0.5, and that F1.

    F1 is of the whole split, all classes together: twice the right detections over detections and objects.
    Of equal F1 the highest score is taken; if no detection is right at any, it is 0.5 with an F1 of 0.
    """
    counted = judged.is_right | judged.is_wrong
    rising = -judged.score[counted]
    right = np.pad(judged.is_right[counted].cumsum(), (1, 0))
    scores = np.arange(100)[::-1] / 100
    kept = np.searchsorted(rising, -scores.astype(rising.dtype), "right")
    f1 = 2 * right[kept] / np.maximum(kept + int(judged.to_find.sum()), 1)
    best = int(f1.argmax())
    return (float(scores[best]), float(f1[best])) if f1[best] else (SCORE_OF_NONE, 0.0)


def confusion_matrix(judged: JudgedDetections, score: float) -> NDArray[np.intp]:
    """Count the detections from a score on, by the class of their object and their own.

    A detection that is right at IoU 0.5 has its object. Of the others, by falling score, each takes the
    object of another class that it overlaps most, at least by 0.5, among those that none has. What is left of
    the detections is on background, and of the objects missed; detections of objects marked ``ignore`` are
    not counted.

    Returns:
        int[K + 1, K + 1], true class by detected class.
    """
    classes = len(judged.split.classes)
    is_drawn = judged.score >= score
    object_of = np.where(is_drawn, judged.taken, -1)
    is_free = judged.to_find.copy()
    is_free[object_of[object_of >= 0]] = False
    near = judged.near
    near = near.select((near.iou >= FOREGROUND_IOU) & ~near.is_same & is_drawn[near.detection])
    for at in np.lexsort((-near.iou, near.detection)):
        detection, target = near.detection[at], near.target[at]
        if object_of[detection] < 0 and is_free[target]:
            object_of[detection], is_free[target] = target, False

    matrix = np.zeros((classes + 1, classes + 1), dtype=np.intp)
    counted = is_drawn & (judged.is_right | judged.is_wrong)
    true = np.where(object_of >= 0, judged.object_label[object_of], classes).astype(np.intp)
    np.add.at(matrix, (true[counted], judged.label[counted]), 1)
    matrix[:, classes] += np.bincount(judged.object_label[is_free], minlength=classes + 1)
    return matrix


def images_to_rank(annotations: Annotations) -> NDArray[np.intp]:
    """Return int[N], rows of the images: all, or of more than ``MOST_IMAGES`` that many drawn at random."""
    rows = np.arange(len(annotations))
    if len(rows) <= MOST_IMAGES:
        return rows
    drawn: NDArray[np.intp] = np.sort(np.random.default_rng(0).choice(rows, MOST_IMAGES, replace=False))
    return drawn


def image_curves(split: ScoredSplit, rows: NDArray[np.intp]) -> Floats:
    """Return float[N, 10], AP on each of these images alone at each IoU threshold; nan without objects."""
    everything = np.arange(split.images)
    blocks = np.array_split(rows, max(1, len(rows) // 100))
    return np.concatenate([split.ap((block[:, None] == everything).astype(float)) for block in blocks])


def rank_images(annotations: Annotations, judged: JudgedDetections) -> tuple[NDArray[np.intp], Floats]:
    """Rank the images that have objects by falling AP; of equal AP, a usual number of objects comes first.

    Returns:
        int[N], rows of the images; float[N, 10], AP on each image alone at each IoU threshold.
    """
    rows = images_to_rank(annotations)
    curves = image_curves(judged.split, rows)
    has_objects = ~np.isnan(curves).any(axis=1)
    rows, curves = rows[has_objects], curves[has_objects]
    # Few objects are often all found, or all missed. AP is rounded because sums may differ by 1e-16.
    objects = annotations.trainable_counts[rows]
    distance = np.abs(objects - np.median(objects))
    order = np.lexsort((rows, distance, -curves.mean(axis=1).round(3)))
    return rows[order], curves[order]


def _precision(scored: ScoredClass, at: int) -> Floats:
    """float[101], the highest precision of a class at each of ``RECALLS`` or above, at one IoU threshold."""
    if not len(scored.objects):
        return np.full(len(RECALLS), np.nan)
    right = scored.correct[at][~scored.ignored[at]]
    found = right.cumsum()
    precision = found / np.arange(1, len(right) + 1)
    best_from_here = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    reached: Floats = best_from_here[np.searchsorted(found / len(scored.objects), RECALLS)]
    return reached


def _or_null(values: Floats) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
