"""The same images for every trial of a study, with its objects and detections drawn in."""

from __future__ import annotations

import numpy as np
from PIL import Image

from drcnn.data.annotations import Annotations
from drcnn.engine.detections_file import read_detections
from drcnn.engine.diagnosis import best_score
from drcnn.engine.judged_detections import judge
from drcnn.report.samples import draw_judged
from studies.definition.plan import Trial

__all__ = ["same_images"]


def same_images(trial: Trial, count: int = 3) -> dict[str, Image.Image]:
    """Draw the same images for every trial of a study, so that MLflow shows them side by side.

    Args:
        trial: finished.
        count: how many; the first with objects of the split that it is judged by.

    Returns:
        Images by file name; detections from the score at which the trial's F1 is highest.
    """
    annotations = Annotations.load(trial.data.judged_table)
    detections = read_detections(trial.folder)
    judged = judge(annotations, detections, trial.config.evaluation.metric)
    score, _ = best_score(judged)
    rows = np.flatnonzero(annotations.trainable_counts)[:count].tolist()
    return {
        f"{number}.png": draw_judged(annotations, judged, row, score) for number, row in enumerate(rows, 1)
    }
