"""A search's record that another process holds, or whose disk is full; SQLite, lock and disk are real."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from ray.tune.error import TuneError

from studies.definition.errors import StudyError
from studies.definition.plan import Plan, Trial
from studies.definition.request import Machines
from studies.execution import tuning
from studies.execution.trial_watcher import TuneRun
from studies.resources.slots import Allocation
from studies.search import patient_storage
from studies.search.patient_storage import PatientStorage
from studies.search.searcher import StudySearcher
from studies.transfer.trial_folders import TrialFolders
from studies.transfer.trial_store import TrialStore
from tests.damage import Filler, small_disk

SEARCH = "title: t\nkind: search\ntrials: 4\nspace: {detector.stages: {low: 1, high: 4}}\n"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_storage, "LOCK_SECONDS", 0.1)
    monkeypatch.setattr(patient_storage, "PAUSE", 0.1)


@pytest.fixture
def plan(make_plan: Callable[..., Plan]) -> Plan:
    return make_plan(SEARCH)


def begun(plan: Plan) -> StudySearcher:
    """A search with a running trial."""
    search = StudySearcher(plan, "key")
    suggested = search.suggest("a")
    assert isinstance(suggested, dict)
    assert isinstance(suggested["trial"], Trial)
    return search


def lock(plan: Plan) -> sqlite3.Connection:
    other = sqlite3.connect(plan.folder / "optuna.db", check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    return other


def test_a_locked_record_is_waited_for(plan: Plan, caplog: pytest.LogCaptureFixture) -> None:
    search = begun(plan)
    other = lock(plan)
    threading.Timer(1.5, other.close).start()
    with caplog.at_level(logging.WARNING):
        search.on_trial_result("a", {"val/AP": 0.3, "epoch": 1.0})
    assert caplog.text.count("optuna.db cannot be used now: database is locked; trying again for 120 s") == 1
    storage = optuna.storages.RDBStorage(f"sqlite:///{plan.folder / 'optuna.db'}")
    (trial,) = optuna.load_study(study_name="key", storage=storage).trials
    assert trial.intermediate_values == {1: 0.3}, "once, however often it was tried"
    assert search.fault is None


def test_the_end_of_patience_is_one_line_and_comes_once(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    search = begun(plan)
    other = lock(plan)
    monkeypatch.setattr(patient_storage, "PATIENCE", 0.5)
    with pytest.raises(
        StudyError, match="end what else uses it, then run the study's command again"
    ) as raised:
        search.on_trial_result("a", {"val/AP": 0.3, "epoch": 1.0})
    assert str(raised.value).startswith(f"{plan.folder / 'optuna.db'}: ")
    assert "database is locked" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert search.fault is raised.value
    monkeypatch.setattr(patient_storage, "PATIENCE", 60.0)
    began = time.monotonic()
    with pytest.raises(StudyError):
        search.trials()
    assert time.monotonic() - began < 30, "it waits no longer"
    other.close()


def test_a_launch_ends_with_that_line(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune, which is not started here, makes a traceback of what its searcher raises."""
    search = begun(plan)
    monkeypatch.setattr(patient_storage, "PATIENCE", 0.0)

    class Tuner:
        def __init__(self, *arguments: Any, **named: Any) -> None: ...

        def fit(self) -> None:
            try:
                search.on_trial_result("a", {"val/AP": 0.3, "epoch": 1.0})
            except StudyError:
                raise TuneError("Traceback (most recent call last): ...") from None

    monkeypatch.setattr("studies.execution.tuning.tune.Tuner", Tuner)
    stub: Any = SimpleNamespace()
    run = TuneRun(plan, Machines(), Allocation(1, 1, 0.0), TrialFolders(TrialStore()), stub, stub)
    other = lock(plan)
    with pytest.raises(StudyError, match=r"optuna\.db: Optuna's record of the search cannot be used"):
        tuning.run_trials(run, search)
    other.close()


@pytest.mark.faults
def test_a_full_disk_is_waited_for_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "disk", megabytes=2) as disk:
        storage = PatientStorage(disk / "optuna.db")
        study = optuna.create_study(storage=storage, study_name="key")
        filler = Filler(disk)
        threading.Timer(1.5, filler.remove).start()
        study.set_user_attr("a", "x" * 100_000)
        filler = Filler(disk)
        monkeypatch.setattr(patient_storage, "PATIENCE", 0.0)
        with pytest.raises(StudyError, match=r"optuna\.db: .* full; free space there, then run"):
            study.set_user_attr("b", "x" * 100_000)
        filler.remove()
        storage.engine.dispose()
