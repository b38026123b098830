"""Search with Optuna: which setting comes next, which trials are cut, and how a search is taken up again.

Optuna's own storage, ``OUTPUT/<study>/optuna.db``, is the search's record. A search is known there by what it
searches (space, base, data), so other ``--set`` values make another search. Each Optuna trial carries our
trial id; a kill leaves some RUNNING, and the next launch gives those up and asks for the same settings
again, which then go on from their folders.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from drcnn.config import ConfigError
from drcnn.engine.record import Status, TrialRecord, read_record
from studies.definition.plan import Plan, Trial
from studies.definition.study import SearchStudy, Space
from studies.search.optuna_record import TRIAL_ID, ended, objectives, search_key, storage, trial_of

__all__ = ["StudySearch", "scheduler", "search_key"]

logger = logging.getLogger(__name__)

# A small space may be used up; give up after so many repeats in a row.
MAX_REPEATS = 50
# Fewer finished trials than this say nothing about which setting matters.
FEWEST = 4


class StudySearch(OptunaSearch):
    """Ray's Optuna search over a study's space, counting distinct trials and reusing finished ones."""

    def __init__(self, plan: Plan, key: str, fetch: Callable[[Path], None] = lambda folder: None) -> None:
        assert isinstance(plan.study, SearchStudy)
        self._plan = plan
        # Brings here what another node has left of a trial: Tune asks before anybody else has done that.
        self._fetch = fetch
        self._budget = plan.study.trials
        self._trials: dict[str, Trial] = {}
        # These count as trials of this launch, though Optuna learns nothing from them.
        self._failed: set[str] = set()
        self._left_out: list[dict[str, Any]] = []
        # With a second objective Optuna's TPE looks for the settings that no other beats in both.
        self._objectives = objectives(plan.study)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        plan.folder.mkdir(parents=True, exist_ok=True)
        super().__init__(
            space={name: _distribution(space) for name, space in plan.study.space.items()},
            metric=self._objectives if plan.study.minimise else plan.study.metric,
            mode=["max", "min"] if plan.study.minimise else "max",
            study_name=key,
            storage=storage(plan),
            seed=plan.study.seed,
        )
        # Typed as None by Ray, which sets it when it is given a space.
        self._optuna: optuna.Study = cast("optuna.Study", self._ot_study)
        self._take_up([dict(point) for point in plan.study.first])

    def __getstate__(self) -> dict[str, Any]:
        # Tune saves its searcher to restore it; we never restore, and connections cannot be saved.
        return {}

    def trials(self) -> list[Trial]:
        """Every distinct trial of the search so far, in the order it was asked for."""
        found: dict[str, Trial] = {}
        for asked in self._optuna.get_trials(deepcopy=False):
            if TRIAL_ID in asked.user_attrs:
                found.setdefault(asked.user_attrs[TRIAL_ID], trial_of(self._plan, asked.params))
        return list(found.values())

    def has_ended(self, found: TrialRecord) -> bool:
        """Whether nothing is left to do for a trial: trained or cut, and measured where that is asked for."""
        return ended(self._objectives, found)

    def left(self) -> int:
        """How many more trials may be started; one that failed is tried again by the next launch only."""
        ids = _ids(self._optuna, TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        return self._budget - len(ids | self._failed)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next trial for Tune; settings that are finished already are told to Optuna and passed over."""
        for _ in range(MAX_REPEATS):
            if self.left() <= 0:
                break
            taken = _ids(self._optuna, TrialState.RUNNING) | self._failed
            params = super().suggest(trial_id) or {}
            asked = self._ot_trials[trial_id]
            trial = self._make(params)
            if trial is None:
                del self._ot_trials[trial_id]
                self._optuna.tell(asked, state=TrialState.FAIL)
                continue
            asked.set_user_attr(TRIAL_ID, trial.id)
            found = read_record(trial.folder)
            if trial.id not in taken and not self.has_ended(found):
                self._trials[trial_id] = trial
                return {"trial": trial}
            del self._ot_trials[trial_id]
            if trial.id in taken:
                self._optuna.tell(asked, state=TrialState.FAIL)
            else:
                self._tell(asked, found)
        return str(Searcher.FINISHED)

    def record(self) -> dict[str, Any]:
        """What Optuna knows: its trials in order, the settings' importances, the best trial or the front.

        Importances are of the metric alone, and need a few finished trials that differ.
        """
        trials = [trial for trial in self._optuna.get_trials(deepcopy=False) if TRIAL_ID in trial.user_attrs]
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        return {
            "objectives": self._objectives,
            "history": [
                {
                    "trial_id": trial.user_attrs[TRIAL_ID],
                    "state": trial.state.name.lower(),
                    "values": trial.values if trial.state == TrialState.COMPLETE else None,
                    "params": trial.params,
                }
                for trial in trials
            ],
            "importances": self._importances(complete),
            "best": list(dict.fromkeys(trial.user_attrs[TRIAL_ID] for trial in self._optuna.best_trials))
            if complete
            else [],
        }

    def _importances(self, complete: list[FrozenTrial]) -> dict[str, float]:
        if len(complete) < FEWEST or len({trial.values[0] for trial in complete}) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(
            self._optuna, evaluator=evaluator, target=lambda trial: trial.values[0]
        )
        return dict(found)

    def save(self, checkpoint_path: str) -> None:
        """Leave Tune the file it expects; the search's record is Optuna's storage."""
        Path(checkpoint_path).touch()

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass an epoch's value on; its step is our own epoch, which a resumed trial does not start again."""
        value = result.get(self._objectives[0], math.nan)
        # Optuna takes no values of epochs where there are two objectives.
        if not math.isnan(value) and len(self._objectives) == 1:
            self._ot_trials[trial_id].report(value, int(result["epoch"]))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna how a trial ended: finished says its folder; otherwise it failed or was cut."""
        trial = self._trials.pop(trial_id)
        try:
            self._fetch(trial.folder)
        except OSError:
            error = True  # whatever it was, it is not known here
        found = read_record(trial.folder)
        if not self.has_ended(found):
            was_cut = not found.is_terminal and not error and len(self._objectives) == 1
            found = TrialRecord(Status.PRUNED if was_cut else Status.FAILED, found.history)
        self._tell(self._ot_trials.pop(trial_id), found)

    def _tell(self, asked: optuna.Trial, found: TrialRecord) -> None:
        values = [found.metrics.get(key, math.nan) for key in self._objectives]
        if found.is_failed or (found.is_finished and any(map(math.isnan, values))):
            # Otherwise a figure that no trial has would be searched for without end.
            self._failed.add(asked.user_attrs[TRIAL_ID])
            self._optuna.tell(asked, state=TrialState.FAIL)
        elif found.is_finished:
            self._optuna.tell(asked, values, state=TrialState.COMPLETE)
        else:
            # Optuna takes a pruned trial's value from what was reported; fill in what a kill swallowed.
            for record in found.history:
                self._report(asked, record)
            self._optuna.tell(asked, state=TrialState.PRUNED)

    def _lacks_figures(self, found: TrialRecord) -> bool:
        known = [found.metrics.get(key, math.nan) for key in self._objectives]
        return found.is_finished and self.has_ended(found) and any(map(math.isnan, known))

    def _report(self, asked: optuna.Trial, record: Mapping[str, float]) -> None:
        known = self._optuna.get_trials(deepcopy=False)[asked.number].intermediate_values
        value = record.get(self._objectives[0], math.nan)
        if int(record["epoch"]) not in known and not math.isnan(value):
            asked.report(value, int(record["epoch"]))

    def _make(self, params: dict[str, Any]) -> Trial | None:
        """The trial of a point; none, and said once, where its values do not go together."""
        try:
            return trial_of(self._plan, params)
        except ConfigError as error:
            if params not in self._left_out:
                self._left_out.append(params)
                logger.warning("%s leaves out %s: %s", self._plan.name, params, error)
            return None

    def _take_up(self, first: list[dict[str, Any]]) -> None:
        """Give up what a killed launch left running, and ask again for all that did not finish."""
        study = self._optuna
        waiting = [_wanted(trial) for trial in study.get_trials(states=[TrialState.WAITING])]
        done = _ids(study, TrialState.COMPLETE, TrialState.PRUNED)
        wanted = set(self._plan.study.varied())
        again: dict[str, dict[str, Any]] = {}
        for trial in study.get_trials():
            if trial.state == TrialState.RUNNING:
                study.tell(trial.number, state=TrialState.FAIL)
            # One that failed without an id has values that do not go together.
            failed = trial.state == TrialState.FAIL and TRIAL_ID in trial.user_attrs
            if (failed or trial.state == TrialState.RUNNING) and set(trial.params) == wanted:
                made = self._make(trial.params)
                if made is None or made.id in done:
                    continue
                if failed and self._lacks_figures(read_record(made.folder)):
                    self._failed.add(made.id)
                else:
                    again[made.id] = trial.params
        if not study.get_trials(deepcopy=False):
            again = {trial_of(self._plan, point).id: point for point in first}
        for params in again.values():
            if params not in waiting:
                study.enqueue_trial(params)


def scheduler(plan: Plan, finished: list[Trial]) -> ASHAScheduler | None:
    """ASHA over our own epochs, which knows earlier launches' trials; none if the study cuts nothing."""
    study = plan.study
    if not isinstance(study, SearchStudy) or study.prune is None:
        return None
    epochs = plan.base.training.epochs
    asha = ASHAScheduler(
        time_attr="epoch",
        metric=study.metric,
        mode="max",
        max_t=epochs,
        grace_period=min(study.prune.grace_epochs, epochs),
        reduction_factor=study.prune.keep,
        # A trial that reaches its last epoch ends by itself; stopping it there would call it cut.
        stop_last_trials=False,
    )
    for trial in finished:
        known: Any = SimpleNamespace(trial_id=trial.id)
        for record in read_record(trial.folder).history:
            if not math.isnan(record.get(study.metric, math.nan)):
                # Private, but the alternative is to cut by a handful of trials after each resume.
                asha._brackets[0].on_result(known, int(record["epoch"]), record[study.metric])
    return asha


def _distribution(space: Space) -> BaseDistribution:
    if space.choices:
        return CategoricalDistribution(space.choices)
    assert space.low is not None
    assert space.high is not None
    if space.is_whole:
        return IntDistribution(int(space.low), int(space.high), log=space.log, step=int(space.step or 1))
    return FloatDistribution(space.low, space.high, log=space.log, step=space.step)


def _ids(study: optuna.Study, *states: TrialState) -> set[str]:
    found = study.get_trials(deepcopy=False, states=states)
    return {trial.user_attrs[TRIAL_ID] for trial in found if TRIAL_ID in trial.user_attrs}


def _wanted(trial: FrozenTrial) -> dict[str, Any]:
    return dict(trial.system_attrs.get("fixed_params", {}))
