"""Whether anything is left to do for a trial: the rule for resuming, searching, previews and exit status."""

from __future__ import annotations

from collections.abc import Sequence

from drcnn.engine.record import TrialRecord, read_record
from studies.definition.paper_tables import paper_rows, row_of
from studies.definition.plan import Plan, Trial
from studies.definition.study import SearchStudy

__all__ = ["is_complete", "to_time", "without_unused_seeds"]


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


def to_time(plan: Plan, trials: Sequence[Trial]) -> list[Trial]:
    """The finished trials whose inference is still to be timed: one of each setting that the paper times."""
    rows = [row for row in paper_rows(plan.study.paper, plan.overrides.changes) if row.seconds is not None]
    replicates: dict[str, list[Trial]] = {}
    for trial in trials:
        if row_of(rows, trial.config) is not None:
            replicates.setdefault(trial.setting_key, []).append(trial)
    found = []
    for setting in replicates.values():
        records = [(trial, read_record(trial.folder)) for trial in setting]
        finished = [(trial, record) for trial, record in records if record.is_finished]
        if finished and all(record.latency is None for _, record in finished):
            found.append(finished[0][0])
    return found


def without_unused_seeds(trials: Sequence[Trial]) -> list[Trial]:
    """The trials without those seeds of a setting that no launch got to.

    Of a setting that has no trial yet its first stays, so that it is seen to be left.
    """
    kept: dict[str, list[Trial]] = {}
    for trial in trials:
        record = read_record(trial.folder)
        of_setting = kept.setdefault(trial.setting_key, [])
        if record.is_terminal or record.history:
            of_setting.append(trial)
    firsts = {trial.setting_key: trial for trial in reversed(trials)}
    ids = {trial.id for key, of_setting in kept.items() for trial in of_setting or [firsts[key]]}
    return [trial for trial in trials if trial.id in ids]
