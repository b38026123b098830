"""What a comparison of two settings shows: a difference, equivalence within a margin δ, or neither.

- **Significant**: the p-value, corrected for the comparisons made together, is below 5 %.
- **Equivalent within ±δ**: the 95 % interval lies within ±δ. That is two one-sided tests (TOST) at 2.5 %
  each: if settings differ by δ or more, at most 2.5 % of comparisons are called equivalent.
- **Undecided**: neither. Most comparisons of few seeds are: more seeds or more images would tell.

A difference may be both significant and too small to matter; then it is called significant.
"""

from __future__ import annotations

from enum import StrEnum

from drcnn.engine.bootstrap import LEVEL, Difference

__all__ = ["Verdict", "is_within", "verdict"]


class Verdict(StrEnum):
    """What may be said about the difference of two settings."""

    SIGNIFICANT = "significant"
    EQUIVALENT = "equivalent"
    UNDECIDED = "undecided"


def verdict(difference: Difference, p_corrected: float, margin: float) -> Verdict:
    """Return what a difference shows.

    Args:
        difference: of two settings of several seeds each; the interval is that of this comparison alone.
        p_corrected: its p-value, corrected for the comparisons made together.
        margin: δ, a fraction of 1.
    """
    if p_corrected < 1 - LEVEL:
        return Verdict.SIGNIFICANT
    return Verdict.EQUIVALENT if is_within(difference, margin) else Verdict.UNDECIDED


def is_within(difference: Difference, margin: float) -> bool:
    """Whether the interval lies within ±margin; an unknown one does not."""
    return -margin < difference.low and difference.high < margin
