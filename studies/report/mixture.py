"""Whether the trials of a report were made alike: figures may also differ by the torch that computed them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from studies.analysis.replicates import Replicate

__all__ = ["mixture"]

UNKNOWN = "not recorded"


def mixture(replicates: Sequence[Replicate]) -> str:
    """Say in what the making of the finished trials differs, such as torch's version; empty if in nothing."""
    made = [replicate.record.made_by for replicate in replicates if replicate.is_finished]
    differing = []
    for name in dict.fromkeys(name for one in made for name in one):
        counts = Counter(one.get(name, UNKNOWN) for one in made)
        # One that went on with another counts, even where all did.
        if len(counts) > 1 or any(", then " in value for value in counts):
            differing.append(f"{name} {_counted(counts)}")
    return f"Trials were made by different {'; '.join(differing)}." if differing else ""


def _counted(counts: Counter[str]) -> str:
    """Each value and how many trials have it, fewest first as they are the exception."""
    (first, trials), *rest = sorted(counts.items(), key=lambda pair: (pair[1], pair[0]))
    texts = [f"{first} ({trials} {'trial' if trials == 1 else 'trials'})"]
    return ", ".join([*texts, *(f"{value} ({count})" for value, count in rest)])
