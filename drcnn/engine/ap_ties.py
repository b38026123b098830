"""The order of detections of equal score in a resampled data set, on which average precision depends.

Detections of equal score rank by image, then by row of their table, as in pycocotools. An image that a
resample draws three times stands in it as three images in a row, each with its own detections in this order.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from drcnn.engine.ap_matching import ScoredClass

__all__ = ["copy_tied"]


def copy_tied(scored: ScoredClass, most: int) -> tuple[ScoredClass, NDArray[np.intp] | None]:
    """Write out the copies of detections whose order decides: of one image and score, some right, some wrong.

    Right, wrong, right, wrong of an image that counts twice is another ranking than right, right, wrong,
    wrong. All other copies rank side by side and are alike, so that a weight stands for them.

    Args:
        scored: the detections of one class.
        most: how often an image counts at most.

    Returns:
        The class with ``most`` copies of these detections, and of each detection the number of its copy, or
        -1 where its weight stands for all; none if there are no such detections.
    """
    if most < 2 or not len(scored.image):
        return scored, None
    begins = np.ones(len(scored.image), dtype=np.bool_)
    begins[1:] = (np.diff(scored.image) != 0) | (np.diff(scored.score) != 0)
    first = np.flatnonzero(begins)
    length = np.diff(first, append=len(begins))
    # Of each run and threshold: how many are right, and how many count neither way.
    right, uncounted = (
        np.add.reduceat(flags, first, axis=1, dtype=int) for flags in (scored.correct, scored.ignored)
    )
    is_mixed = np.logical_or.reduce((right > 0) & (right + uncounted < length), axis=0)
    if not is_mixed.any():
        return scored, None
    run = begins.cumsum() - 1
    times = np.where(is_mixed, most, 1)[run]
    rows = np.repeat(np.arange(len(run)), times)
    copy = np.arange(len(rows)) - np.repeat(times.cumsum() - times, times)
    order = np.lexsort((rows, copy, run[rows]))
    rows, copy = rows[order], np.where(is_mixed[run[rows]], copy, -1)[order]
    copied = replace(
        scored,
        image=scored.image[rows],
        correct=scored.correct[:, rows],
        ignored=scored.ignored[:, rows],
        score=scored.score[rows],
        row=scored.row[rows],
        taken=scored.taken[rows],
    )
    return copied, copy
