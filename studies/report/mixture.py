"""Whether the trials of a report were made alike: figures may also differ by the torch that computed them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from studies.analysis.replicates import Replicate

__all__ = ["mixture"]

UNKNOWN = "not recorded"
COMMIT_DIGITS = 10


def mixture(replicates: Sequence[Replicate]) -> str:
    """Say in what the making of the finished trials differs, such as torch's version; empty if in nothing."""
    made = [_made_by(replicate) for replicate in replicates if replicate.is_finished]
    differing = []
    for name in dict.fromkeys(name for one in made for name in one):
        counts = Counter(one.get(name, UNKNOWN) for one in made)
        if len(counts) > 1:
            differing.append(f"{name} {_counted(name, counts)}")
    return f"Trials were made by different {'; '.join(differing)}." if differing else ""


def _made_by(replicate: Replicate) -> Mapping[str, str]:
    made: Mapping[str, str] = getattr(replicate.record, "made_by", {})
    return made


def _counted(name: str, counts: Counter[str]) -> str:
    """Each value and how many trials have it, fewest first as they are the exception."""
    (first, trials), *rest = sorted(counts.items(), key=lambda pair: (pair[1], pair[0]))
    texts = [f"{_short(name, first)} ({trials} {'trial' if trials == 1 else 'trials'})"]
    return ", ".join([*texts, *(f"{_short(name, value)} ({count})" for value, count in rest)])


def _short(name: str, value: str) -> str:
    return value[:COMMIT_DIGITS] if name == "commit" and value != UNKNOWN else value
