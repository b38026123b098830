"""Opening the store of MLflow's runs: what is wrong with it is one line, soon, and without a password."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from studies.definition.errors import StudyError
from studies.definition.plan import Plan, expand
from studies.record.tracking.addresses import default_uri, redacted
from studies.record.tracking.runs import Tracker
from studies.record.tracking.store import open_tracker

STUDY = "title: t\nkind: grid\ngrid: {detector.nms_reg: [0.7, 0.8]}\n"


@pytest.fixture
def plan(make_plan: Callable[..., Plan], output: Path) -> Plan:
    return make_plan(STUDY)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a store sets how patient MLflow's client is."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


def opened(plan: Plan, uri: str = "") -> Tracker:
    return open_tracker(uri or default_uri(plan.output), plan, lambda trial: {})


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("postgresql+psycopg2://me:secret@127.0.0.1:1/runs", "the database cannot be reached: .*refused"),
        ("postgresql+psycopg2://me:se/cr@et@127.0.0.1:1/runs", "write an @ in a name or password as %40"),
        ("mysql://me:secret@127.0.0.1/runs", "needs a driver that is not installed"),
        ("oracles://me:secret@127.0.0.1/runs", "not the address of a database"),
        ("http://me:secret@127.0.0.1:1", "MLflow cannot use it: it does not answer: .*refused"),
        ("sqlite:////proc/nowhere/mlflow.db", "a database cannot be made there"),
        ("sqlite:///:memory:", "names no file"),
        ("file:///runs", "MLflow writes to folders no longer"),
        ("runs/mlruns", "MLflow writes to folders no longer"),
        ("postgresql:/me:secret@db/runs", "not the address of a database"),
        ("postgresql+psycopg2:me:secret@db/runs", "not the address of a database"),
        ("http:/me:secret@head:5000", "not the address of a database"),
    ],
)
def test_an_address_of_no_use_is_named_without_its_password(plan: Plan, uri: str, said: str) -> None:
    with pytest.raises(StudyError, match=said) as raised:
        opened(plan, uri)
    assert "secret" not in str(raised.value)
    assert "et@" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:secret@db/runs", "postgresql://me:***@db/runs"),
        ("postgresql://me:se@cr/et@db/runs", "postgresql://me:***@db/runs"),
        ("https://token@head/", "https://***@head/"),
        ("https:/token@head/", "https:/***@head/"),
        ("postgresql:/me:secret@db/x", "postgresql:/me:***@db/x"),
        ("postgresql:me:secret@db/x", "postgresql:me:***@db/x"),
        ("s3://key:secret@bucket/runs", "s3://key:***@bucket/runs"),
        ("postgresql://db/runs?user=me&password=secret&a=b", "postgresql://db/runs?user=me&password=***&a=b"),
        (
            "sqlite:////a/b:c/mlflow.db and http://head:5000/x",
            "sqlite:////a/b:c/mlflow.db and http://head:5000/x",
        ),
        ("'https://u:p@a/x' then 'https://u:p@b/y'", "'https://u:***@a/x' then 'https://u:***@b/y'"),
    ],
)
def test_addresses_are_shown_without_what_is_secret(address: str, shown: str) -> None:
    assert redacted(address) == shown


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 4 : len(content) // 2] = b"\xff" * (len(content) // 2 - len(content) // 4)
    path.write_bytes(content)


def unmake(path: Path) -> None:
    """What a kill in the middle of MLflow's own migrations leaves."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DROP TABLE alembic_version")


@pytest.mark.faults
@pytest.mark.parametrize("damage", [flip, unmake])
def test_the_runs_of_a_damaged_database_are_written_again(
    plan: Plan, finish: Callable[..., None], damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    trials = expand(plan, 1)
    for trial in trials:
        finish(trial.folder, [0.3, 0.4])
    statuses = []
    for _ in range(2):
        tracker = opened(plan)
        tracker.open("key", "mine", "A title", fresh=False, tags={}, texts={})
        for trial in trials:
            tracker.finish(trial)
        assert tracker.close("FINISHED", trials, None, [], "A title") == ""
        statuses.append(children(plan))
        if len(statuses) == 1:
            assert "put aside" not in caplog.text
            damage(plan.output / "mlflow.db")
            # Each launch is a process of its own.
            SqlAlchemyStore._get_or_create_engine(default_uri(plan.output)).dispose()
    assert statuses[0] == statuses[1] == {trial.id: "FINISHED" for trial in trials}
    assert "put aside as mlflow.db.damaged" in caplog.text


def children(plan: Plan) -> dict[str, str]:
    client = MlflowClient(default_uri(plan.output))
    experiment = client.get_experiment_by_name(plan.name)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], "tags.`drcnn.trial_id` != ''")
    return {run.data.tags["drcnn.trial_id"]: run.info.status for run in found}


READY = """
import sys
from pathlib import Path
from studies.record.tracking.addresses import default_uri
from studies.record.tracking.store import _ready
_ready(default_uri(Path(sys.argv[1])), Path(sys.argv[1]))
"""


def making(output: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", READY, str(output)], stderr=subprocess.PIPE, text=True)


@pytest.mark.faults
@pytest.mark.slow
def test_a_kill_while_mlflow_makes_its_tables_and_two_at_once_cost_nothing(
    tmp_path: Path, make_plan: Callable[..., Plan]
) -> None:
    output = tmp_path / "runs"
    killed = making(output)
    while not (output / ".mlflow.db.draft").exists():
        assert killed.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    killed.kill()
    killed.communicate()
    assert not (output / "mlflow.db").exists()
    both = [making(output) for _ in range(2)]
    assert [process.communicate(timeout=200)[1] for process in both if process.wait(200)] == []
    assert {path.name for path in output.iterdir()} == {"mlflow.db", ".mlflow.db.lock"}
    tracker = opened(make_plan(STUDY))
    tracker.open("key", "mine", "A title", fresh=False, tags={}, texts={})
    assert tracker.close("FINISHED", [], None, [], "A title") == ""
