"""Finds trials that another commit has begun and this one would go on with: their figures are of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from drcnn.engine.checkpoint_header import newest_header
from studies.definition.trial import Trial

__all__ = ["note_on_other_commits"]

MAX_NAMED = 3  # trials
UNKNOWN = "one that was not recorded"


def note_on_other_commits(trials: Sequence[Trial], commit: str) -> str:
    """Say which trials are half trained by another commit; empty if there are none.

    Args:
        trials: those that are left.
        commit: of this launch, as ``provenance.commit`` tells it; of an unknown one nothing can be said.
    """
    begun = [(trial, _last_commit(trial.folder)) for trial in trials if commit]
    others = [(trial, other) for trial, other in begun if other is not None and other != commit]
    if not others:
        return ""
    names = ", ".join(trial.name for trial, _ in others[:MAX_NAMED])
    commits = ", ".join(dict.fromkeys(other or UNKNOWN for _, other in others))
    return (
        f"{len(others)} {'trial' if len(others) == 1 else 'trials'} begun by commit {commits} "
        f"{'goes' if len(others) == 1 else 'go'} on with commit {commit} "
        f"({names}{', …' if len(others) > MAX_NAMED else ''}): the report says so; --fresh trains anew"
    )


def _last_commit(folder: Path) -> str | None:
    """The commit of a trial's last epoch, empty if it was not recorded; none without a checkpoint."""
    header = newest_header(folder)  # what is damaged is told where it is read
    if header is None:
        return None
    made_by = header.state.get("made_by")
    return str(made_by.get("commit", "") if isinstance(made_by, dict) else "").rpartition(", then ")[2]
