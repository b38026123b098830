"""Fractions as people read them: in points, × 100, as the paper prints AP."""

from __future__ import annotations

import math

__all__ = ["MISSING", "points"]

MISSING = "–"  # a figure that is not known


def points(value: float, *, signed: bool = False) -> str:
    """A fraction as the paper prints it; a dash for one that is not known.

    >>> points(0.5664), points(-0.012, signed=True), points(math.nan)
    ('56.6', '-1.2', '–')
    """
    if math.isnan(value):
        return MISSING
    return f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"
