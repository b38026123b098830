"""``OUTPUT/<study>/trials.txt``: the ids of all trials that a study has run or used, one a line.

A trial's folder may be several studies'. ``--fresh`` of one of them leaves what others use where it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from drcnn.files import write_text
from studies.definition.plan import Trial

__all__ = ["TRIALS", "ids_in", "note_trials", "trials_of"]

TRIALS = "trials.txt"
ID = re.compile("[0-9a-f]{16}")


def note_trials(folder: Path, trials: Iterable[Trial]) -> None:
    """Add trials, and the detectors that they evaluate, to the list in a study's folder."""
    used = {each.id for trial in trials for each in (trial, trial.model) if each is not None}
    known = trials_of(folder)
    if not used <= known:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / TRIALS, "".join(f"{each}\n" for each in sorted(used | known)))


def trials_of(folder: Path) -> set[str]:
    """The ids in the list of a study, by its folder; none if it has no list."""
    try:
        return ids_in((folder / TRIALS).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return set()


def ids_in(text: str) -> set[str]:
    """The ids in such a list."""
    return {line for line in text.split() if ID.fullmatch(line)}
