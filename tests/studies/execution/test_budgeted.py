"""Launches with a budget: real trials, by a clock on which each takes a hundred seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from study_helpers import assignments

from studies.definition.plan import Plan, Trial, expand, search_points, trained_models
from studies.definition.request import Machines, Request
from studies.execution.budgeted import LaunchBudget
from studies.resources.connection import connect
from studies.resources.slots import Allocation
from studies.resources.throughput import Estimate
from studies.run_study import main
from studies.search.searcher import StudySearcher
from studies.transfer.trial_folders import TrialFolders
from studies.transfer.trial_store import TrialStore

GRID = "title: t\nkind: grid\ngrid: {detector.nms_reg: [0.7, 0.85]}\n"
EVALUATE = """\
title: t
kind: grid
base: {detector.variant: decoupled_cascade}
grid: {detector.nms_test: [0.55, 0.65]}
"""
SEARCH = """\
title: t
kind: search
trials: 4
space: {detector.nms_reg: {low: 0.6, high: 0.95, step: 0.05}}
confirm: {top: 1, seeds: 2, against: {detector.nms_reg: 0.85}}
"""
SECONDS = 100
Launch = Callable[[str], str]


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with connect(Machines()):
        yield


@pytest.fixture
def launch(
    session: None, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Launch:
    """Launches a study with options, one trial at a time; returns what it printed."""

    def finished() -> int:
        return len([*output.glob("trials/**/result.json")])

    def run(study: str, *options: str) -> str:
        path = output / "mine.yaml"
        path.write_text(study)
        before, begun = finished(), time.monotonic()
        clock = SimpleNamespace(monotonic=lambda: begun + SECONDS * (finished() - before))
        monkeypatch.setattr("studies.execution.budgeted.time", clock)
        sets = assignments(training__epochs=1, training__milestones=[])
        arguments = [str(path), "--max-concurrent", "1", "--output", str(output), *options]
        status = main([*arguments, "--set", *sets])
        text, error = capsys.readouterr()
        assert status == 0, text + error
        return text

    return run


def rows(output: Path) -> list[tuple[str, int, str]]:
    """The label, seed and status of every trial in the study's table."""
    table = pq.read_table(output / "mine" / "results.parquet").to_pylist()
    return [(row["name"].rpartition(" ")[0], row["seed"], row["status"]) for row in table]


def parents(output: Path) -> list[str]:
    """The status of each parent run in MLflow."""
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    return [run.info.status for run in found if "mlflow.parentRunId" not in run.data.tags]


def test_the_same_command_with_more_time_goes_on(launch: Launch, output: Path) -> None:
    text = launch(GRID, "--budget", "250s")
    assert "2 trained, 0 reused, 0 failed" in text
    assert "Budget of 4m10s: 2 of 20 trials" in text
    assert rows(output) == [("NMS_reg=0.7", 1, "finished"), ("NMS_reg=0.85", 1, "finished")]

    text = launch(GRID, "--budget", "150s")
    assert "Budget of 2m30s: 3 of 20 trials" in text
    assert rows(output)[2:] == [("NMS_reg=0.7", 2, "finished")]
    assert parents(output) == ["FINISHED"]

    text = launch(GRID, "--budget", "1h", "--seeds", "2")
    assert "1 trained, 3 reused, 0 failed" in text
    assert "Budget" not in text, "all is done"
    assert parents(output) == ["FINISHED", "FINISHED"], "one for as many seeds as fit, one for two seeds"


def test_a_setting_without_a_trial_is_left_and_not_failed(launch: Launch, output: Path) -> None:
    text = launch(GRID, "--budget", "150s")
    assert "1 trained, 0 reused, 0 failed" in text
    assert rows(output) == [("NMS_reg=0.7", 1, "finished"), ("NMS_reg=0.85", 1, "pending")]
    report = (output / "mine" / "report.md").read_text()
    assert "Left for another launch, as no trial of it has begun: NMS_reg=0.85." in report
    before = (output / "mine" / "report.md").read_bytes()
    assert main(["report", "mine", "--output", str(output)]) == 0
    assert (output / "mine" / "report.md").read_bytes() == before


def test_what_cannot_end_does_not_begin(launch: Launch, output: Path) -> None:
    text = launch(GRID, "--budget", "5s", "--seeds", "3")
    assert "Budget of 5s: 0 of 6 trials; none could begin" in text
    assert len(rows(output)) == 6
    assert {status for _, _, status in rows(output)} == {"pending"}


@pytest.mark.slow
def test_a_detector_is_trained_only_if_it_can_be_evaluated_too(launch: Launch, output: Path) -> None:
    text = launch(EVALUATE, "--budget", "450s", "--seeds", "2")
    assert "1 trained, 2 evaluated, 0 reused, 0 failed" in text
    assert "Budget of 7m30s: 2 of 4 trials" in text
    assert [(seed, status) for _, seed, status in rows(output)] == [
        (1, "finished"),
        (1, "finished"),
        (2, "pending"),
        (2, "pending"),
    ]
    assert "1 trained, 2 evaluated, 3 reused, 0 failed" in launch(EVALUATE, "--budget", "1h", "--seeds", "2")


@pytest.mark.slow
def test_a_search_leaves_time_to_confirm_its_best(launch: Launch, output: Path) -> None:
    text = launch(SEARCH, "--budget", "850s")
    searched = [row for row in rows(output) if row[1] == 1]
    confirming = [row for row in rows(output) if row[1] > 1]
    assert 1 <= len(searched) < 4
    assert len(confirming) in {2, 4}, "the baseline may be the best"
    assert {status for _, _, status in rows(output)} == {"finished"}
    assert f"Budget of 14m10s: {len(searched) + len(confirming)} of 8 trials" in text
    launch(SEARCH, "--budget", "2h")
    assert len([row for row in rows(output) if row[1] == 1]) == 4


def test_suggestions_and_detectors_leave_time_for_what_follows_them(
    make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each trial is estimated at 90 seconds, and takes 10 to start."""

    def estimate(trials: Sequence[Trial], **_: object) -> Estimate:
        return Estimate({trial.id: 90.0 for trial in trials}, 0.0, (), 0)

    monkeypatch.setattr("studies.execution.budgeted.estimate_remaining", estimate)
    now = time.monotonic()
    monkeypatch.setattr("studies.execution.budgeted.time", SimpleNamespace(monotonic=lambda: now))

    def budget(plan: Plan, seconds: float) -> LaunchBudget:
        request, folders = Request("mine", budget=seconds), TrialFolders(TrialStore())
        return LaunchBudget(plan, request, Allocation(1, 1, 0.0), folders, now)

    plan = make_plan(SEARCH)
    for seconds, suggested in ((899.0, False), (900.0, True)):
        search = budget(plan, seconds).limit(StudySearcher(plan, "key"), search_points(plan), confirming=4)
        # A trial, four that confirm it, and one of these that may begin last: 150 seconds each.
        assert isinstance(search.suggest("a"), dict) == suggested

    plan = make_plan(EVALUATE)
    evaluations = expand(plan, 1)
    models = trained_models(evaluations)
    for seconds, begun in ((599.0, False), (600.0, True)):
        assert isinstance(budget(plan, seconds).queue(models, evaluations).suggest("a"), dict) == begun
