"""Finds trials that another commit has begun and this one would go on with: their figures are of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from drcnn.engine.checkpoint_header import newest_header
from drcnn.engine.made_by import UNKNOWN
from studies.definition.trial import Trial

__all__ = ["note_on_other_commits"]

MAX_NAMED = 3  # trials
NOT_RECORDED = "one that was not recorded"
UNKNOWN_NOW = "one that is not known here (no .git folder)"


def note_on_other_commits(trials: Sequence[Trial], commit: str) -> str:
    """Say which trials are half trained by another commit; empty if there are none.

    Args:
        trials: those that are left.
        commit: of this launch, as ``provenance.commit`` tells it; empty if it is not known.
    """
    begun = [(trial, _last_commit(trial.folder)) for trial in trials]
    others = [(trial, other) for trial, other in begun if other is not None and other != commit]
    if not others:
        return ""
    names = ", ".join(trial.name for trial, _ in others[:MAX_NAMED])
    commits = ", ".join(dict.fromkeys(other or NOT_RECORDED for _, other in others))
    return (
        f"{len(others)} {'trial' if len(others) == 1 else 'trials'} begun by commit {commits} "
        f"{'goes' if len(others) == 1 else 'go'} on with {f'commit {commit}' if commit else UNKNOWN_NOW} "
        f"({names}{', …' if len(others) > MAX_NAMED else ''}): the report says so; --fresh trains anew"
    )


def _last_commit(folder: Path) -> str | None:
    """The commit of a trial's last epoch, empty if it was not recorded; none without a checkpoint."""
    header = newest_header(folder)  # what is damaged is told where it is read
    if header is None:
        return None
    made_by = header.state.get("made_by")
    last = str(made_by.get("commit", "") if isinstance(made_by, dict) else "").rpartition(", then ")[2]
    return "" if last == UNKNOWN else last
