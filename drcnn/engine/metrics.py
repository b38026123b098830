"""The result of evaluating a split: average precision at ten IoU thresholds, summarised by one rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drcnn.config import Config

__all__ = [
    "COCO_DETECTIONS",
    "IOU_THRESHOLDS",
    "Metrics",
    "counted_detections",
    "mean_of_present",
    "summarise",
]

# 0.50, 0.55 ... 0.95. As quotients: 0.5 + 4 * 0.05 is not 0.7, and a box of IoU 7/10 would miss it.
IOU_THRESHOLDS: NDArray[np.float64] = np.arange(50, 100, 5) / 100
# Positions in these.
AT_IOU = {"AP50": 0, "AP60": 2, "AP70": 4, "AP75": 5, "AP80": 6, "AP90": 8}

# Of an image and class, by pycocotools' default; those of lower scores are left out.
COCO_DETECTIONS = 100


@dataclass(frozen=True)
class Metrics:
    """Average precision as fractions of 1.

    Attributes:
        summary: AP, AP50 ... AP90; from COCO's metric also AP_small, AP_medium and AP_large, where the split
            has such objects.
        per_class: AP of each class that has an object to find.
    """

    summary: dict[str, float]
    per_class: dict[str, float]


def counted_detections(config: Config) -> str:
    """Say that COCO's metric counts fewer detections than the detector may give; nothing if it does not."""
    most = config.detector.max_detections
    if config.evaluation.metric != "coco" or most <= COCO_DETECTIONS:
        return ""
    return (
        f"detector.max_detections={most}: COCO's metric counts the {COCO_DETECTIONS} of the highest scores "
        "of each image and class, as pycocotools does"
    )


def summarise(ap: NDArray[np.float64], classes: Sequence[str]) -> Metrics:
    """Return the means over classes, and of each class over the thresholds.

    Args:
        ap: float64[10, K], average precision at each of ``IOU_THRESHOLDS`` of each class; nan where a class
            has no object to find.
        classes: the K names.
    """
    summary = {"AP": mean_of_present(ap)}
    summary |= {name: mean_of_present(ap[at]) for name, at in AT_IOU.items()}
    per_class = {name: mean_of_present(ap[:, label]) for label, name in enumerate(classes)}
    return Metrics(
        {name: value for name, value in summary.items() if not np.isnan(value)},
        {name: value for name, value in per_class.items() if not np.isnan(value)},
    )


def mean_of_present(values: NDArray[np.float64]) -> float:
    """Return the mean of the values that are not nan; nan if all are."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")
