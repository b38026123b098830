"""Whether anything is left to do for a trial: the rule for resuming, searching, previews and exit status."""

from __future__ import annotations

from drcnn.engine.record import TrialRecord
from studies.definition.study import SearchStudy

__all__ = ["is_complete"]


def is_complete(record: TrialRecord, search: SearchStudy | None = None) -> bool:
    """Whether nothing is left to do for a trial.

    Args:
        record: what its folder says.
        search: the search that chose it; none for trials that are listed or that confirm a search, which are
            all trained to their end.
    """
    if record.is_finished:
        return search is None or all(key in record.metrics for key in search.objectives[1:])
    # A trial that another study pruned says nothing about two objectives.
    return record.is_pruned and search is not None and search.minimise is None
