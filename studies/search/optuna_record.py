"""What is known of a search, in Optuna's storage and its trials' folders, without Ray; nothing is changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from drcnn.engine.record import TrialRecord, read_record
from studies.definition.plan import Plan, Trial
from studies.definition.study import SearchStudy

__all__ = ["TRIAL_ID", "ended", "objectives", "search_key", "so_far", "storage", "trial_of"]

# An attribute of Optuna's trials.
TRIAL_ID = "trial_id"


def search_key(plan: Plan, sample: Trial) -> str:
    """What a search is known by: its definition, base configuration and data."""
    tree = plan.base.model_dump(mode="json")
    tree["data"]["source"] = sample.data.fingerprint
    definition = plan.study.model_dump(mode="json", exclude={"title", "answers", "paper", "confirm"})
    text = json.dumps([definition, tree], sort_keys=True)
    return f"{plan.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def so_far(plan: Plan, key: str) -> tuple[list[Trial], list[Trial]]:
    """What a launch would find: the trials that ended, and those that it would begin with."""
    study = plan.study
    assert isinstance(study, SearchStudy)
    asked: list[FrozenTrial] = []
    if _database(plan).exists() and key in optuna.get_all_study_names(storage(plan)):
        asked = optuna.load_study(study_name=key, storage=storage(plan)).get_trials()
    asked = [trial for trial in asked if TRIAL_ID in trial.user_attrs]
    told = [trial for trial in asked if trial.state in {TrialState.COMPLETE, TrialState.PRUNED}]
    done = {trial.user_attrs[TRIAL_ID] for trial in told}
    points = [trial.params for trial in asked] or study.first
    trials = {trial.id: trial for trial in (trial_of(plan, point) for point in points)}.values()
    over = [t for t in trials if t.id in done or ended(objectives(study), read_record(t.folder))]
    return over, [trial for trial in trials if trial not in over]


def storage(plan: Plan) -> optuna.storages.RDBStorage:
    """Optuna's, in the study's folder."""
    return optuna.storages.RDBStorage(f"sqlite:///{_database(plan)}")


def objectives(study: SearchStudy) -> list[str]:
    """The figures that Optuna is told: one, or two to trade."""
    return [study.metric, *([study.minimise] if study.minimise else [])]


def ended(figures: Sequence[str], found: TrialRecord) -> bool:
    """Whether nothing is left to do for a trial that is judged by these figures."""
    if found.is_finished:
        return all(key in found.metrics for key in figures[1:])
    # Another study's early end says nothing about two objectives.
    return found.is_pruned and len(figures) == 1


def trial_of(plan: Plan, params: Mapping[str, Any]) -> Trial:
    """The trial of a point of the space.

    Raises:
        ConfigError: its values do not go together.
    """
    # A step leaves 0.7000000000000001 behind, which would be another trial than 0.7.
    settings = {key: round(value, 10) if isinstance(value, float) else value for key, value in params.items()}
    return plan.trial(settings, plan.base.seed)


def _database(plan: Plan) -> Path:
    return (plan.folder / "optuna.db").resolve()
