"""Search with Optuna: which setting comes next, which trials are cut, and how a search is taken up again.

Optuna's own storage, ``OUTPUT/<study>/optuna.db``, is the search's record. A search is known there by what it
searches (space, base, data), so other ``--set`` values make another search. Each Optuna trial carries our
trial id; a kill leaves some RUNNING, and the next launch gives those up and asks for the same settings
again, which then go on from their folders.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from studies.study import SearchStudy, Space
from studies.trials import Outcome, Plan, Trial, outcome

__all__ = ["StudySearch", "scheduler", "search_key"]

# An attribute of Optuna's trials.
TRIAL_ID = "trial_id"
# A small space may be used up; give up after so many repeats in a row.
MAX_REPEATS = 50
# Fewer finished trials than this say nothing about which setting matters.
FEWEST = 4


def search_key(plan: Plan, sample: Trial) -> str:
    """What a search is known by: its definition, base configuration and data."""
    tree = plan.base.model_dump(mode="json")
    tree["data"]["source"] = sample.data.fingerprint
    definition = plan.study.model_dump(mode="json", exclude={"title", "answers", "paper", "confirm"})
    text = json.dumps([definition, tree], sort_keys=True)
    return f"{plan.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


class StudySearch(OptunaSearch):
    """Ray's Optuna search over a study's space, counting distinct trials and reusing finished ones."""

    def __init__(self, plan: Plan, key: str) -> None:
        assert isinstance(plan.study, SearchStudy)
        self._plan = plan
        self._budget = plan.study.trials
        self._trials: dict[str, Trial] = {}
        self._failed: set[str] = set()
        # With a second objective Optuna's TPE looks for the settings that no other beats in both.
        self._objectives = [plan.study.metric, *([plan.study.minimise] if plan.study.minimise else [])]
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        plan.folder.mkdir(parents=True, exist_ok=True)
        path = (plan.folder / "optuna.db").resolve()
        super().__init__(
            space={name: _distribution(space) for name, space in plan.study.space.items()},
            metric=self._objectives if plan.study.minimise else plan.study.metric,
            mode=["max", "min"] if plan.study.minimise else "max",
            study_name=key,
            storage=optuna.storages.RDBStorage(f"sqlite:///{path}"),
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
                found.setdefault(asked.user_attrs[TRIAL_ID], self._make(asked.params))
        return list(found.values())

    def has_ended(self, found: Outcome) -> bool:
        """Whether nothing is left to do for a trial: trained or cut, and measured where that is asked for."""
        if found.status == "finished":
            return all(key in found.metrics for key in self._objectives[1:])
        # Another study's early end says nothing about two objectives.
        return found.status == "pruned" and len(self._objectives) == 1

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
            trial = self._make(super().suggest(trial_id) or {})
            asked = self._ot_trials[trial_id]
            asked.set_user_attr(TRIAL_ID, trial.id)
            found = outcome(trial.folder)
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
        found = outcome(trial.folder)
        if not self.has_ended(found):
            was_cut = found.status == "unfinished" and not error and len(self._objectives) == 1
            found = Outcome("pruned" if was_cut else "failed", found.history)
        if found.status == "failed":
            self._failed.add(trial.id)
        self._tell(self._ot_trials.pop(trial_id), found)

    def _tell(self, asked: optuna.Trial, found: Outcome) -> None:
        values = [found.metrics.get(key, math.nan) for key in self._objectives]
        if found.status == "failed" or (found.status == "finished" and any(map(math.isnan, values))):
            self._optuna.tell(asked, state=TrialState.FAIL)
        elif found.status == "finished":
            self._optuna.tell(asked, values, state=TrialState.COMPLETE)
        else:
            # Optuna takes a pruned trial's value from what was reported; fill in what a kill swallowed.
            for record in found.history:
                self._report(asked, record)
            self._optuna.tell(asked, state=TrialState.PRUNED)

    def _report(self, asked: optuna.Trial, record: dict[str, float]) -> None:
        known = self._optuna.get_trials(deepcopy=False)[asked.number].intermediate_values
        value = record.get(self._objectives[0], math.nan)
        if int(record["epoch"]) not in known and not math.isnan(value):
            asked.report(value, int(record["epoch"]))

    def _make(self, params: dict[str, Any]) -> Trial:
        # A step leaves 0.7000000000000001 behind, which would be another trial than 0.7.
        settings = {
            key: round(value, 10) if isinstance(value, float) else value for key, value in params.items()
        }
        return self._plan.trial(settings, self._plan.base.seed)

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
            if trial.state in {TrialState.RUNNING, TrialState.FAIL} and set(trial.params) == wanted:
                made = self._make(trial.params)
                if made.id not in done:
                    again[made.id] = trial.params
        if not study.get_trials(deepcopy=False):
            again = {self._make(point).id: point for point in first}
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
        for record in outcome(trial.folder).history:
            if not math.isnan(record.get(study.metric, math.nan)):
                # Private, but the alternative is to cut by a handful of trials after each resume.
                asha._brackets[0].on_result(known, int(record["epoch"]), record[study.metric])
    return asha


def _distribution(space: Space) -> BaseDistribution:
    if space.choices:
        return CategoricalDistribution(space.choices)
    assert space.low is not None
    assert space.high is not None
    if isinstance(space.low, int) and isinstance(space.high, int):
        return IntDistribution(space.low, space.high, log=space.log, step=int(space.step or 1))
    return FloatDistribution(space.low, space.high, log=space.log, step=space.step)


def _ids(study: optuna.Study, *states: TrialState) -> set[str]:
    found = study.get_trials(deepcopy=False, states=states)
    return {trial.user_attrs[TRIAL_ID] for trial in found if TRIAL_ID in trial.user_attrs}


def _wanted(trial: FrozenTrial) -> dict[str, Any]:
    return dict(trial.system_attrs.get("fixed_params", {}))
