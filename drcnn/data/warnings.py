"""Warnings about data: what a person should look at, though it is used all the same."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["DataWarning", "WarningCounts", "count_warnings", "in_one_line", "total"]

WarningCounts = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class DataWarning:
    """One warning.

    Attributes:
        kind: what it is about, as a plural: "boxes given twice". A run counts the warnings of each kind.
        message: one line that names the file, the split or the class.
    """

    kind: str
    message: str


def count_warnings(warnings: Iterable[DataWarning]) -> WarningCounts:
    """Count the warnings of each kind, in the order of their first."""
    return tuple(Counter(warning.kind for warning in warnings).items())


def total(counts: Iterable[WarningCounts]) -> WarningCounts:
    """Add up counts, kind by kind."""
    summed: Counter[str] = Counter()
    for each in counts:
        summed.update(dict(each))
    return tuple(summed.items())


def in_one_line(counts: WarningCounts, source: str) -> str:
    """Say how many warnings of what kind there are, and which command shows them.

    >>> in_one_line((("boxes given twice", 2),), "coco:DIR")
    '2 warnings about the data (boxes given twice: 2); `drcnn data check coco:DIR` shows them'
    """
    everything = sum(number for _, number in counts)
    kinds = ", ".join(f"{kind}: {number}" for kind, number in counts)
    noun = "warning" if everything == 1 else "warnings"
    return (
        f"{everything} {noun} about the data ({kinds}); `drcnn data check {shlex.quote(source)}` shows them"
    )
