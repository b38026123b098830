from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from PIL import Image
from study_helpers import epoch

from drcnn.engine.record import write_failed
from studies.definition.plan import Plan, Trial, expand
from studies.record.tracking.runs import Tracker


class Desk:
    """Trackers of one study in one database, as launch after launch would open them."""

    def __init__(self, output: Path) -> None:
        self.uri = f"sqlite:///{output / 'mlflow.db'}"
        self.output = output
        self.client = MlflowClient(self.uri)

    def open(self, key: str = "key", **options: Any) -> Tracker:
        patience = options.get("patience", 120.0)
        artifacts = f"file://{self.output}/artifacts"
        tracker = Tracker(self.uri, artifacts, "mine", self.output, patience=patience)
        tracker.open(
            key, "mine today", "A title", fresh=options.get("fresh", False), tags={}, texts={"a.txt": "a"}
        )
        return tracker

    def runs(self, *, children: bool) -> list[Run]:
        experiment = self.client.get_experiment_by_name("mine")
        assert experiment is not None
        found = self.client.search_runs([experiment.experiment_id])
        return [run for run in found if ("mlflow.parentRunId" in run.data.tags) == children]

    def steps(self, run: Run, key: str = "val/AP") -> list[int]:
        return [metric.step for metric in self.client.get_metric_history(run.info.run_id, key)]


@pytest.fixture
def desk(output: Path) -> Iterator[Desk]:
    return Desk(output)


@pytest.fixture
def trial(make_plan: Callable[..., Plan]) -> Trial:
    return expand(make_plan("nms_sweep"), 1)[3]


def test_a_trial_becomes_a_child_with_readable_parameters(
    desk: Desk, trial: Trial, finish: Callable[..., None]
) -> None:
    tracker = desk.open()
    tracker.start(trial)
    tracker.log(trial, epoch(1, 0.3))
    tracker.log(trial, epoch(2, 0.4))
    finish(trial.folder, [0.3, 0.4])
    tracker.finish(trial)
    tracker.close("FINISHED", [trial], trial, [], "A title")
    (child,), (parent,) = desk.runs(children=True), desk.runs(children=False)
    assert child.info.run_name == "s1 reg=0.85 cls=0.7"
    assert child.data.tags["drcnn.trial"] == "NMS_reg=0.85 NMS_cls=0.7 seed=1"
    assert child.data.tags["drcnn.best"] == "true"
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert {key: child.data.params[key] for key in ("nms_reg", "nms_cls", "stages", "seed", "backbone")} == {
        "nms_reg": "0.85",
        "nms_cls": "0.7",
        "stages": "1",
        "seed": "1",
        "backbone": "mobilenet_v2",
    }
    assert desk.steps(child) == [1, 2]
    assert "val/AP_large" not in child.data.metrics, "not a number is not logged"
    assert {run.info.status for run in (child, parent)} == {"FINISHED"}
    assert parent.data.metrics["best/AP"] == 0.4
    assert parent.data.tags["mlflow.note.content"] == "A title"
    names = [file.path for file in desk.client.list_artifacts(child.info.run_id)]
    assert names == ["result.json"]


def test_the_next_launch_mends_and_continues_after_a_kill(
    desk: Desk, trial: Trial, finish: Callable[..., None]
) -> None:
    killed = desk.open()
    killed.start(trial)
    killed.log(trial, epoch(1, 0.3))
    # Epoch 2 was trained and checkpointed, but the driver died before it heard of it.
    finish(trial.folder, [0.3, 0.4, 0.5])
    tracker = desk.open()
    assert {run.info.status for run in desk.runs(children=True)} == {"KILLED"}
    tracker.finish(trial)
    tracker.close("FINISHED", [trial], trial, [], "A title")
    (child,), (parent,) = desk.runs(children=True), desk.runs(children=False)
    assert desk.steps(child) == [1, 2, 3]
    assert (child.info.status, parent.info.status) == ("FINISHED", "FINISHED")


def test_an_interrupted_launch_leaves_nothing_running(desk: Desk, trial: Trial) -> None:
    tracker = desk.open()
    tracker.start(trial)
    tracker.close("KILLED", [trial], None, [], "A title")
    assert {run.info.status for run in desk.runs(children=True) + desk.runs(children=False)} == {"KILLED"}


def test_fresh_and_other_commands_have_their_own_parent(
    desk: Desk, trial: Trial, finish: Callable[..., None]
) -> None:
    finish(trial.folder, [0.3])
    for options in ({}, {}, {"fresh": True}, {}, {"key": "other"}):
        tracker = desk.open(**options)
        tracker.finish(trial)
        tracker.close("FINISHED", [trial], trial, [], "A title")
    assert len(desk.runs(children=False)) == 3
    assert len(desk.runs(children=True)) == 3


def test_failed_and_cut_trials_say_so(
    desk: Desk, make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    failed, cut = expand(make_plan("nms_sweep"), 1)[:2]
    tracker = desk.open()
    tracker.start(failed)
    write_failed(failed.folder, "TrainingDiverged: loss not finite")
    tracker.finish(failed)
    finish(cut.folder, [0.1], status="pruned")
    tracker.finish(cut)
    runs = {run.data.tags["drcnn.trial"]: run for run in desk.runs(children=True)}
    assert runs[failed.name].info.status == "FAILED"
    assert runs[failed.name].data.tags["mlflow.note.content"] == "TrainingDiverged: loss not finite"
    assert runs[cut.name].info.status == "FINISHED"
    assert runs[cut.name].data.tags["drcnn.status"] == "pruned"


def test_a_broken_store_costs_no_training_and_is_filled_in_later(
    desk: Desk, trial: Trial, finish: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = desk.open()

    def locked(*_: Any, **__: Any) -> None:
        raise RuntimeError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", locked)
        tracker.start(trial)
        tracker.log(trial, epoch(1, 0.3))
    tracker.log(trial, epoch(2, 0.4))
    finish(trial.folder, [0.3, 0.4])
    tracker.finish(trial)
    (child,) = desk.runs(children=True)
    assert sorted(desk.steps(child)) == [1, 2]
    assert child.info.status == "FINISHED"


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Another process's hold on an SQLite database; MLflow's calls take 20 s to give up."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@pytest.mark.faults
@pytest.mark.slow
def test_a_locked_database_stops_no_trial_and_gets_all_in_order(
    desk: Desk, trial: Trial, finish: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    tracker = desk.open(patience=60.0)
    with held(desk.output / "mlflow.db"):
        tracker.start(trial)
        began = time.monotonic()
        for number in (1, 2, 3):
            tracker.log(trial, epoch(number, 0.3))
        # After the first failure the store is left alone for a while.
        assert time.monotonic() - began < 15
        finish(trial.folder, [0.3, 0.3, 0.3])
        tracker.finish(trial)
    assert tracker.close("FINISHED", [trial], trial, [], "A title") == ""
    (child,), (parent,) = desk.runs(children=True), desk.runs(children=False)
    assert (child.info.status, parent.info.status) == ("FINISHED", "FINISHED")
    history = desk.client.get_metric_history(child.info.run_id, "val/AP")
    assert [metric.step for metric in sorted(history, key=lambda metric: metric.timestamp)] == [1, 2, 3]
    assert caplog.text.count("cannot be written now") == 1


@pytest.mark.faults
@pytest.mark.slow
def test_what_cannot_be_written_at_the_end_is_told_and_written_by_the_next_launch(
    desk: Desk, trial: Trial, finish: Callable[..., None]
) -> None:
    tracker = desk.open(patience=1.0)
    tracker.start(trial)
    finish(trial.folder, [0.3, 0.4])
    with held(desk.output / "mlflow.db"):
        said = tracker.close("FINISHED", [trial], trial, [], "A title")
    assert "database is locked" in said
    assert "the same command writes what is missing" in said
    assert {run.info.status for run in desk.runs(children=True)} == {"RUNNING"}
    tracker = desk.open()
    tracker.finish(trial)
    assert tracker.close("FINISHED", [trial], trial, [], "A title") == ""
    assert [run.info.status for run in desk.runs(children=True)] == ["FINISHED"]
    assert [run.info.status for run in desk.runs(children=False)] == ["FINISHED"]


def test_epochs_that_could_not_be_logged_come_before_later_ones(
    desk: Desk, trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = desk.open()
    tracker.start(trial)
    log_batch, order = MlflowClient.log_batch, list[int]()

    def failing(client: MlflowClient, run_id: str, **what: Any) -> None:
        if len(attempts) == 1:
            raise MlflowException("bad gateway", INVALID_PARAMETER_VALUE)
        order.extend({metric.step for metric in what.get("metrics", [])})
        log_batch(client, run_id, **what)

    monkeypatch.setattr(MlflowClient, "log_batch", failing)
    attempts: list[int] = []
    for number in (1, 2, 3):
        attempts.append(number)
        tracker.log(trial, epoch(number, 0.3))
    assert order == [1, 2, 3]


def test_what_another_study_trained_meanwhile_comes_in_order_too(
    desk: Desk, trial: Trial, finish: Callable[..., None]
) -> None:
    tracker = desk.open()
    tracker.start(trial)
    finish(trial.folder, [0.3, 0.4, 0.5])
    tracker.log(trial, epoch(3, 0.5))
    (child,) = desk.runs(children=True)
    history = desk.client.get_metric_history(child.info.run_id, "val/AP")
    assert [metric.step for metric in sorted(history, key=lambda metric: metric.timestamp)] == [1, 2, 3]


def test_the_best_mark_moves_and_names_differ_where_pages_cut_them(
    desk: Desk, make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    long = """
    title: T
    kind: grid
    grid: {detector.variant: [decoupled_cascade], detector.stages: [2, 3], detector.nms_reg: [0.7, 0.8]}
    """
    trials = expand(make_plan(long), 2)
    for best in (trials[0], trials[3]):
        tracker = desk.open()
        for trial in trials:
            finish(trial.folder, [0.3])
            tracker.finish(trial)
        tracker.close("FINISHED", trials, best, [], "A title")
        children = desk.runs(children=True)
        marked = [run.data.tags["drcnn.trial_id"] for run in children if "drcnn.best" in run.data.tags]
        assert marked == [best.id]
    assert len({run.info.run_name[:20] for run in children}) == len(trials) == 8


def test_a_finished_trial_has_its_pictures(desk: Desk, trial: Trial, finish: Callable[..., None]) -> None:
    finish(trial.folder, [0.3])
    tracker = Tracker(desk.uri, f"file://{desk.output}/artifacts", "mine", desk.output, draw)
    tracker.open("key", "mine", "A title", fresh=False, tags={}, texts={})
    tracker.finish(trial)
    (child,) = desk.runs(children=True)
    files = [file.path for file in desk.client.list_artifacts(child.info.run_id, "samples")]
    assert files == ["samples/1.png"]


def draw(trial: Trial) -> dict[str, Image.Image]:
    return {"1.png": Image.new("RGB", (4, 4))}
