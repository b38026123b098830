"""Which setting comes next: Optuna's TPE, asked and told through Ray Tune's ``Searcher``.

Optuna's storage is the search's record (see ``optuna_record``). A kill leaves some of its trials RUNNING; the
next launch tells Optuna that those failed and asks for the same settings again, which then go on from their
folders. So a search ends with its number of distinct trials, however often it was stopped.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from drcnn.config import ConfigError
from drcnn.engine.record import Status, TrialRecord, read_record, write_pruned
from studies.definition.errors import StudyError
from studies.definition.plan import Plan, Trial
from studies.definition.settings import Space
from studies.definition.study import SearchStudy
from studies.record.completion import is_complete
from studies.record.study_trials import note_trials
from studies.search.optuna_record import TRIAL_ID, distinct_trials, lost_points, ready_storage, trial_of

__all__ = ["StudySearcher"]

logger = logging.getLogger(__name__)

DIRECTIONS = (optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE)
# A small space may be used up; give up after so many repeats in a row.
MAX_REPEATS = 50


class StudySearcher(Searcher):
    """Asks Optuna for the distinct trials of a study, and reuses those that other studies have finished.

    Args:
        plan: of a search study.
        key: the name of its Optuna study.
        download: brings a trial's folder here when another node has trained it: Tune asks the searcher how a
            trial ended before anybody else has done that.
    """

    def __init__(self, plan: Plan, key: str, download: Callable[[Path], None] = lambda folder: None) -> None:
        super().__init__()
        assert isinstance(plan.study, SearchStudy)
        self._plan, self._study, self._download = plan, plan.study, download
        self._space = {name: _distribution(space) for name, space in plan.study.space.items()}
        # By Tune's id: our trial, and Optuna's.
        self._running: dict[str, tuple[Trial, optuna.Trial]] = {}
        # These count as trials of this launch, though Optuna learns nothing from them.
        self._failed: set[str] = set()
        # Optuna has their values, but their folders lost them, as when a file was damaged: run again.
        self._lost: set[str] = set()
        self._left_out: list[dict[str, Any]] = []
        # Asked before each suggestion: whether there is time for the trial that an earlier launch began, or
        # for a new one.
        self.may_begin: Callable[[Trial | None], bool] = lambda resumed: True
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        plan.folder.mkdir(parents=True, exist_ok=True)
        self._storage = ready_storage(plan)
        self._optuna = optuna.create_study(
            storage=self._storage,
            sampler=optuna.samplers.TPESampler(seed=plan.study.seed),
            study_name=key,
            # With a second objective TPE looks for the settings that no other beats in both.
            directions=DIRECTIONS[: len(plan.study.objectives)],
            load_if_exists=True,
        )
        self._resume()

    def __getstate__(self) -> dict[str, Any]:
        # Tune saves its searcher to restore it; we never restore, and connections cannot be saved.
        return {}

    @property
    def fault(self) -> StudyError | None:
        """Why the record cannot be used any more, however long that was tried; none if it can."""
        return self._storage.fault

    def trials(self) -> list[Trial]:
        """Every distinct trial of the search so far, in the order it was asked for."""
        return distinct_trials(self._plan, self._optuna.get_trials(deepcopy=False))

    def remaining(self) -> int:
        """How many more trials may be started; one that failed is tried again by the next launch only."""
        ids = self._ids(TrialState.COMPLETE, TrialState.PRUNED) - self._lost
        return self._study.trials - len(ids | self._ids(TrialState.RUNNING) | self._failed)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next trial for Tune; settings that are complete already are told to Optuna and passed over."""
        for _ in range(MAX_REPEATS):
            if self.remaining() <= 0 or not self.may_begin(self._next_waiting()):
                break
            taken = self._ids(TrialState.RUNNING) | self._failed
            asked = self._optuna.ask(self._space)
            trial = self._make(asked.params)
            if trial is None:
                self._optuna.tell(asked, state=TrialState.FAIL)
                continue
            asked.set_user_attr(TRIAL_ID, trial.id)
            note_trials(self._plan.folder, [trial])
            record = read_record(trial.folder)
            if trial.id in taken:
                self._optuna.tell(asked, state=TrialState.FAIL)
            elif is_complete(record, self._study):
                self._tell(asked, record)
            else:
                self._running[trial_id] = trial, asked
                return {"trial": trial}
        return str(Searcher.FINISHED)

    def _next_waiting(self) -> Trial | None:
        """The trial that Optuna is to suggest again, if there is one."""
        waiting = self._optuna.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return self._make(_enqueued_params(waiting[0])) if waiting else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass an epoch's metric on; its step is our own epoch, which goes on when a trial is resumed."""
        value = result.get(self._study.chosen_by, math.nan)
        # Optuna takes no values of epochs where there are two objectives.
        if not math.isnan(value) and self._study.minimise is None:
            self._running[trial_id][1].report(value, int(result["epoch"]))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna how a trial ended: what its folder does not say finished has failed or was pruned."""
        trial, asked = self._running.pop(trial_id)
        try:
            self._download(trial.folder)
        except OSError:
            error = True  # however it ended, that is not known here
        record = read_record(trial.folder)
        if not is_complete(record, self._study):
            was_pruned = not (record.is_terminal or error) and self._study.minimise is None
            record = TrialRecord(Status.PRUNED if was_pruned else Status.FAILED, record.history)
        self._tell(asked, record)

    def save(self, checkpoint_path: str) -> None:
        """Leave Tune the file it expects; the search's record is Optuna's storage."""
        Path(checkpoint_path).touch()

    def _tell(self, asked: optuna.Trial, record: TrialRecord) -> None:
        self._lost.discard(asked.user_attrs[TRIAL_ID])
        if record.is_failed or self._lacks_values(record):
            # Otherwise a metric that no trial has would be searched for without end.
            self._failed.add(asked.user_attrs[TRIAL_ID])
            self._optuna.tell(asked, state=TrialState.FAIL)
        elif record.is_finished:
            self._optuna.tell(asked, self._values(record), state=TrialState.COMPLETE)
        else:
            # Optuna takes a pruned trial's value from what was reported; add the epochs that a kill lost.
            for metrics in record.history:
                self._report_once(asked, metrics)
            self._optuna.tell(asked, state=TrialState.PRUNED)

    def _values(self, record: TrialRecord) -> list[float]:
        return [record.metric(key) for key in self._study.objectives]

    def _lacks_values(self, record: TrialRecord) -> bool:
        return record.is_finished and any(map(math.isnan, self._values(record)))

    def _report_once(self, asked: optuna.Trial, metrics: Mapping[str, float]) -> None:
        reported = self._optuna.get_trials(deepcopy=False)[asked.number].intermediate_values
        value = metrics.get(self._study.chosen_by, math.nan)
        if int(metrics["epoch"]) not in reported and not math.isnan(value):
            asked.report(value, int(metrics["epoch"]))

    def _make(self, params: dict[str, Any]) -> Trial | None:
        """The trial of a point; none, with one warning, where its values do not go together."""
        try:
            return trial_of(self._plan, params)
        except ConfigError as error:
            if params not in self._left_out:
                self._left_out.append(params)
                logger.warning("%s leaves out %s: %s", self._plan.name, params, error)
            return None

    def _resume(self) -> None:
        """Give up what a killed launch left running, and ask again for all that did not finish."""
        if not self._optuna.get_trials(deepcopy=False):
            self._restore(lost_points(self._plan))
        optuna_trials = self._optuna.get_trials()
        self._lost = {trial.id for trial in map(self._lost_trial, optuna_trials) if trial is not None}
        done = self._ids(TrialState.COMPLETE, TrialState.PRUNED) - self._lost
        unfinished: dict[str, dict[str, Any]] = {}
        for optuna_trial in optuna_trials:
            if optuna_trial.state == TrialState.RUNNING:
                self._optuna.tell(optuna_trial.number, state=TrialState.FAIL)
            trial = self._to_ask_again(optuna_trial, done)
            if trial is not None:
                unfinished[trial.id] = optuna_trial.params
        waiting = [_enqueued_params(trial) for trial in optuna_trials if trial.state == TrialState.WAITING]
        asked = self._ids(*TrialState)
        # All at first; of a record that was made again, those that no trial was begun of.
        for point in map(dict, self._study.first):
            if (own_id := trial_of(self._plan, point).id) not in asked:
                unfinished.setdefault(own_id, point)
        for params in unfinished.values():
            if params not in waiting:
                self._optuna.enqueue_trial(params)

    def _lost_trial(self, optuna_trial: FrozenTrial) -> Trial | None:
        """The trial whose values Optuna knows, but not its folder; one that was pruned is marked again."""
        was_pruned = optuna_trial.state == TrialState.PRUNED
        if not was_pruned and optuna_trial.state != TrialState.COMPLETE:
            return None
        trial = self._make(optuna_trial.params) if set(optuna_trial.params) == set(self._space) else None
        if trial is None or is_complete(read_record(trial.folder), self._study):
            return None
        with suppress(OSError):
            self._download(trial.folder)
        if was_pruned:
            write_pruned(trial.folder)
        return None if is_complete(read_record(trial.folder), self._study) else trial

    def _restore(self, points: list[dict[str, Any]]) -> None:
        """Tell Optuna the trials of a record that was lost; those without an end are left to ``_resume``."""
        for point in points:
            self._optuna.enqueue_trial(point)
            asked = self._optuna.ask(self._space)
            trial = trial_of(self._plan, asked.params)
            asked.set_user_attr(TRIAL_ID, trial.id)
            record = read_record(trial.folder)
            if is_complete(record, self._study):
                self._tell(asked, record)

    def _to_ask_again(self, optuna_trial: FrozenTrial, done: set[str]) -> Trial | None:
        """The trial of one that a kill interrupted, or that failed or was lost, unless that is of no use."""
        # One that failed without an id has values that do not go together.
        has_failed = optuna_trial.state == TrialState.FAIL and TRIAL_ID in optuna_trial.user_attrs
        was_running = optuna_trial.state == TrialState.RUNNING
        is_lost = optuna_trial.user_attrs.get(TRIAL_ID) in self._lost
        if not (has_failed or was_running or is_lost) or set(optuna_trial.params) != set(self._space):
            return None
        trial = self._make(optuna_trial.params)
        if trial is None or trial.id in done:
            return None
        record = read_record(trial.folder)
        if has_failed and is_complete(record, self._study) and self._lacks_values(record):
            self._failed.add(trial.id)
            return None
        return trial

    def _ids(self, *states: TrialState) -> set[str]:
        """The ids of our trials whose Optuna trials are in one of these states."""
        optuna_trials = self._optuna.get_trials(deepcopy=False, states=states)
        return {trial.user_attrs[TRIAL_ID] for trial in optuna_trials if TRIAL_ID in trial.user_attrs}


def _distribution(space: Space) -> BaseDistribution:
    if space.choices:
        return CategoricalDistribution(space.choices)
    assert space.low is not None
    assert space.high is not None
    if space.is_whole:
        return IntDistribution(int(space.low), int(space.high), log=space.log, step=int(space.step or 1))
    return FloatDistribution(space.low, space.high, log=space.log, step=space.step)


def _enqueued_params(optuna_trial: FrozenTrial) -> dict[str, Any]:
    return dict(optuna_trial.system_attrs.get("fixed_params", {}))
