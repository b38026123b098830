"""Trained detectors whose metrics on resamples of the images are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from drcnn.engine.average_precision import METRICS
from drcnn.engine.bootstrap import Resampled
from drcnn.engine.record import Status, TrialRecord
from studies.analysis.replicates import Replicate, Setting
from studies.definition.plan import Trial

IMAGES = 400
CURVE = np.zeros(10)  # no test here looks at it


def detector(whole: float, noise: float, number: int, images: int = IMAGES) -> Resampled:
    """A detector whose metrics vary between resamples with the standard deviation ``noise``."""
    draws = np.random.default_rng(number).normal(size=500)
    draws = whole + noise * (draws - draws.mean()) / draws.std(ddof=1)
    return Resampled(images, 0, dict.fromkeys(METRICS, whole), dict.fromkeys(METRICS, draws), CURVE)


def setting(label: str, detectors: Sequence[Resampled]) -> Setting:
    """A setting of these detectors; the comparisons look at nothing else of its trials."""
    record = TrialRecord(Status.FINISHED)
    return Setting(label, tuple(Replicate(cast(Trial, None), record, detector) for detector in detectors))
