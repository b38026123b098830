"""What Optuna's storage, ``OUTPUT/<study>/optuna.db``, knows of a search. Reading it changes nothing.

A launch puts a damaged one aside and makes it again from the trials' folders (``lost_points``).

A search is known there by what it searches (space, base, data), so other ``--set`` values make another one.
Each Optuna trial carries the id of our trial.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from drcnn.backbone_weights import WEIGHT_NAMES
from drcnn.config import Config, ConfigError
from drcnn.engine.record import read_record
from drcnn.files import DAMAGED
from drcnn.identity import NUMERICS, effective_settings
from studies.definition.plan import Plan, Trial
from studies.definition.study import SearchStudy
from studies.record.completion import is_complete
from studies.record.databases import ready_database
from studies.record.tracking.addresses import sqlite_uri
from studies.search.patient_storage import LOCK_SECONDS, PatientStorage, storage_fault

__all__ = [
    "TRIAL_ID",
    "distinct_trials",
    "lost_points",
    "ready_storage",
    "recorded_trials",
    "search_key",
    "split_by_progress",
    "storage",
    "storage_faults_named",
    "trial_of",
]

# An attribute of Optuna's trials.
TRIAL_ID = "trial_id"


def search_key(plan: Plan) -> str:
    """The name of the Optuna study of a search: a hash of its definition, and of what its trials share.

    As a trial's identity, it does not change with where data and weights lie.
    """
    definition = plan.study.model_dump(mode="json", exclude={"title", "answers", "paper", "confirm"})
    base, start = plan.base, plan.base.detector.weights
    if base.training.init != "none" or start not in WEIGHT_NAMES:
        start = plan.inputs.start_digest(base)
    shared = [effective_settings(base), plan.inputs.data(base.data).fingerprint, start, NUMERICS]
    text = json.dumps([definition, shared], sort_keys=True)
    return f"{plan.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def ready_storage(plan: Plan) -> PatientStorage:
    """Optuna's storage, for a launch: made if it is not there, put aside and made again if it is damaged.

    Raises:
        StudyError: another process holds it, or it cannot be written.
    """
    loss = "the search goes on with the trials of its space that are in --output"
    ready_database(_database(plan), _make, _is_whole, loss, patience=LOCK_SECONDS)
    return PatientStorage(_database(plan))


def storage(plan: Plan) -> optuna.storages.RDBStorage:
    """Optuna's storage, in the study's folder, to be read."""
    patience = {"connect_args": {"timeout": LOCK_SECONDS}}
    return optuna.storages.RDBStorage(sqlite_uri(_database(plan)), engine_kwargs=patience)


@contextmanager
def storage_faults_named(plan: Plan) -> Iterator[None]:
    """Turn an error of the search's database into one line that says what to do.

    Raises:
        StudyError: the database is locked, damaged, or cannot be written.
    """
    try:
        yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        raise storage_fault(_database(plan), error) from None


def recorded_trials(plan: Plan, key: str) -> list[Trial]:
    """Every distinct trial of a search so far, in the order it was asked for."""
    return distinct_trials(plan, _asked(plan, key))


def split_by_progress(plan: Plan, key: str) -> tuple[list[Trial], list[Trial]]:
    """The trials of a search that have ended, and those that its next launch begins with."""
    study = plan.study
    assert isinstance(study, SearchStudy)
    asked = _asked(plan, key)
    told_ids = {
        trial.user_attrs[TRIAL_ID]
        for trial in asked
        if trial.state in {TrialState.COMPLETE, TrialState.PRUNED}
    }
    points = [trial.params for trial in asked] or list(study.first)
    trials = {trial.id: trial for trial in (trial_of(plan, point) for point in points)}.values()
    ended = [t for t in trials if t.id in told_ids or is_complete(read_record(t.folder), study)]
    return ended, [trial for trial in trials if trial not in ended]


def distinct_trials(plan: Plan, asked: Sequence[FrozenTrial]) -> list[Trial]:
    """Our trials of Optuna's, each once."""
    trials: dict[str, Trial] = {}
    for optuna_trial in asked:
        if TRIAL_ID in optuna_trial.user_attrs:
            trials.setdefault(optuna_trial.user_attrs[TRIAL_ID], trial_of(plan, optuna_trial.params))
    return list(trials.values())


def trial_of(plan: Plan, params: Mapping[str, Any]) -> Trial:
    """The trial of a point of the space.

    Raises:
        ConfigError: its values do not go together.
    """
    # A step leaves 0.7000000000000001 behind, which would be another trial than 0.7.
    setting = {key: round(value, 10) if isinstance(value, float) else value for key, value in params.items()}
    return plan.trial(setting, plan.base.seed)


def lost_points(plan: Plan) -> list[dict[str, Any]]:
    """The points of the space that have a trial's folder, oldest first, where a damaged record was put aside.

    Without such a record there are none: other studies may have trained points of this space too.
    """
    study = plan.study
    assert isinstance(study, SearchStudy)
    if not any(plan.folder.glob(f"{_database(plan).name}{DAMAGED}*")):
        return []
    points = []
    files = plan.output.glob("trials/*/config.yaml")
    for path in sorted(files, key=lambda path: (path.stat().st_mtime_ns, path)):
        try:
            settings = dict(Config.from_yaml(path.read_text(encoding="utf-8")).flat())
            point = {key: settings[key] for key in study.space}
            is_ours = trial_of(plan, point).folder == path.parent
        except (OSError, UnicodeDecodeError, yaml.YAMLError, ConfigError, KeyError):
            continue  # of a version with other settings
        if is_ours:
            points.append(point)
    return points


def _make(path: Path) -> None:
    optuna.storages.RDBStorage(sqlite_uri(path)).engine.dispose()


def _is_whole(database: sqlite3.Connection) -> bool:
    """Whether all tables are there: Optuna notes their version last."""
    return database.execute("SELECT 1 FROM alembic_version").fetchone() is not None


def _asked(plan: Plan, key: str) -> list[FrozenTrial]:
    """Optuna's trials that became one of ours; none where there is no such search yet."""
    if not _database(plan).exists() or key not in optuna.get_all_study_names(storage(plan)):
        return []
    optuna_trials = optuna.load_study(study_name=key, storage=storage(plan)).get_trials()
    return [trial for trial in optuna_trials if TRIAL_ID in trial.user_attrs]


def _database(plan: Plan) -> Path:
    return (plan.folder / "optuna.db").resolve()
