"""Names and units of metrics: records hold ``val/AP`` as a fraction, people read AP in points (× 100)."""

from __future__ import annotations

import math

from drcnn.engine.metrics import AT_IOU

__all__ = ["AP_KEY", "MARGIN", "METRICS", "MISSING", "key_of", "name_of", "points"]

MISSING = "–"
SPLIT = "val/"
# AP points: settings that surely differ by less are equivalent, unless --margin says otherwise.
MARGIN = 0.5


def key_of(name: str) -> str:
    """The key under which records and MLflow keep a metric: ``AP50`` is ``val/AP50``."""
    return f"{SPLIT}{name}"


def name_of(key: str) -> str:
    """A metric as people say it: ``val/AP50`` is ``AP50``."""
    return key.removeprefix(SPLIT)


def points(value: float, *, signed: bool = False) -> str:
    """A fraction as the paper prints it; a dash for one that is not known.

    >>> points(0.5664), points(-0.012, signed=True), points(math.nan)
    ('56.6', '-1.2', '–')
    """
    if math.isnan(value):
        return MISSING
    return f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"


AP_KEY = key_of("AP")
# What a study may be judged by: metrics that every split has, and of which the statistics know the spread.
METRICS = tuple(key_of(name) for name in ("AP", *AT_IOU))
