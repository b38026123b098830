"""Whole launches of the command line, as a user starts, stops and kills them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from launch_helpers import Launch, results, runs, steps, write_study
from mlflow import MlflowClient
from study_helpers import assignments

from drcnn.config import Config
from drcnn.data.prepare import prepare
from drcnn.engine.record import read_record
from drcnn.engine.run_options import RunOptions
from drcnn.engine.train import fit
from studies.run_study import main


def test_smoke_runs_the_papers_study_in_small(output: Path) -> None:
    status, out, err = Launch(output, "nms_sweep", "--smoke", "--set", *assignments()).end()
    assert status == 0, err
    assert "Table III" in out
    assert "2 trained, 0 reused, 0 failed" in out
    assert f"mlflow ui --backend-store-uri sqlite:///{output}/mlflow.db --host 127.0.0.1" in out
    table = pq.read_table(output / "nms_sweep-smoke" / "results.parquet").to_pylist()
    assert [row["status"] for row in table] == ["finished", "finished"]
    parents, children = runs(output, "nms_sweep-smoke")
    assert len(parents) == 1
    assert sorted(run.info.run_name for run in children) == [
        "s1 cls=0.7",
        "s1 cls=0.9",
    ]
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    files = {file.path for file in client.list_artifacts(children[0].info.run_id)}
    assert files == {"config.yaml", "result.json", "detections.parquet", "samples"}
    assert [version.version for version in client.search_model_versions("name = 'nms_sweep-smoke'")] == [1]
    assert "  then open http://127.0.0.1:5000/#/experiments/1/runs?" in out
    assert "Detect: drcnn predict " in out.splitlines()[-1]
    kept = {file.path for file in client.list_artifacts(parents[0].info.run_id)}
    assert {
        "results.parquet",
        "report.md",
        "report.html",
        "base.yaml",
        "study.yaml",
        "environment.txt",
    } <= kept
    assert len(children[0].data.metrics) <= 40

    again, text, _ = Launch(output, "nms_sweep", "--smoke", "--set", *assignments()).end()
    assert again == 0
    assert "0 trained, 2 reused, 0 failed" in text
    assert [len(found) for found in runs(output, "nms_sweep-smoke")] == [1, 2]


@pytest.mark.slow
def test_the_same_command_goes_on_after_ctrl_c_and_after_kill(output: Path) -> None:
    study = write_study(output, "title: Mine\nkind: grid\ngrid: {detector.nms_reg: [0.7, 0.8, 0.9]}\n")
    command = [
        study,
        "--max-concurrent",
        "1",
        "--set",
        *assignments(training__epochs=6, data__train_images=16),
    ]

    def epochs_of_running() -> int:
        known = [read_record(folder) for folder in output.glob("trials/*")]
        return max((len(found.history) for found in known if not found.is_terminal), default=0)

    launch = Launch(output, *command)
    launch.wait_until(lambda: epochs_of_running() >= 2)
    launch.process.send_signal(signal.SIGINT)
    status, _, err = launch.end()
    assert status == 130, err
    assert "interrupted" in err
    assert "run the same command again to resume" in err
    assert {run.info.status for group in runs(output, "mine") for run in group} == {"KILLED"}

    launch = Launch(output, *command)
    launch.wait_until(lambda: len(results(output)) == 1 and epochs_of_running() >= 2)
    os.kill(launch.process.pid, signal.SIGKILL)
    launch.end()
    before = results(output)
    running = _histories(output)

    status, out, err = Launch(output, *command).end()
    assert status == 0, err
    assert "2 trained, 1 reused, 0 failed" in out
    after = results(output)
    assert len(after) == 3
    assert all(after[trial] == record for trial, record in before.items())
    # Times of day are in the records: equal ones were not trained again.
    assert any(len(history) >= 2 for history in running.values())
    assert all(after[trial]["history"][: len(history)] == history for trial, history in running.items())
    parents, children = runs(output, "mine")
    assert len(parents) == 1
    assert sorted(run.data.tags["drcnn.trial_id"] for run in children) == sorted(after)
    assert {run.info.status for run in parents + children} == {"FINISHED"}
    assert [steps(output, run) for run in children] == [[1, 2, 3, 4, 5, 6]] * 3


def _histories(output: Path) -> dict[str, list[dict[str, float]]]:
    return {folder.name: read_record(folder).history for folder in output.glob("trials/*")}


def test_a_failing_trial_ends_neither_the_study_nor_its_record(output: Path) -> None:
    study = write_study(
        output,
        "title: Mine\nkind: grid\nbase: {training.clip_norm: null, training.warmup_iterations: 0}\n"
        "grid: {training.lr: [0.01, 1.0e+30, 0.02]}\n",
    )
    status, out, err = Launch(output, study, "--set", *assignments(training__epochs=2)).end()
    assert status == 1, err
    assert "2 trained, 0 reused, 1 failed" in out
    assert "lr=1e+30 seed=1: TrainingDiverged" in out
    _, children = runs(output, "mine")
    assert sorted(run.info.status for run in children) == ["FAILED", "FINISHED", "FINISHED"]
    failed = next(run for run in children if run.info.status == "FAILED")
    assert "TrainingDiverged" in failed.data.tags["mlflow.note.content"]
    rows = pq.read_table(output / "mine" / "results.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["finished", "failed", "finished"]


@pytest.mark.slow
def test_a_search_keeps_its_number_of_trials_and_starts_again_when_asked(output: Path) -> None:
    study = write_study(
        output,
        "title: Mine\nkind: search\ntrials: 3\nspace: {detector.stages: {low: 1, high: 4}}\n"
        "first: [{detector.stages: 2}]\nprune: {grace_epochs: 1, keep: 2}\n",
    )
    command = [study, "--set", *assignments(training__epochs=2)]
    status, out, err = Launch(output, *command).end()
    assert status == 0, err
    assert "3 trained, 0 reused, 0 failed" in out
    assert len(results(output)) == 3
    status, out, err = Launch(output, *command, "--fresh").end()
    assert status == 0, err
    assert "3 trained, 0 reused, 0 failed" in out
    assert len(results(output, "old-*/*")) == 3
    assert len(runs(output, "mine")[0]) == 2
    assert {run.info.status for group in runs(output, "mine") for run in group} == {"FINISHED"}


@pytest.mark.slow
def test_two_workers_give_the_figures_of_one(output: Path) -> None:
    """Up to the order of sums, which in an untrained detector soon decides which proposals it keeps."""
    study = write_study(output, "title: Mine\nkind: grid\ngrid: {detector.stages: [2]}\n")
    settings = assignments(training__epochs=1)
    status, _, err = Launch(output, study, "--workers-per-trial", "2", "--set", *settings).end()
    assert status == 0, err
    (folder,) = output.glob("trials/*")
    two = read_record(folder).metrics
    config = Config.from_yaml((folder / "config.yaml").read_text())
    # What one worker runs, without Ray.
    data = prepare(config.data, output / "data")
    fit(config, data, output / "one", report=lambda metrics: None, options=RunOptions(threads=1))
    one = read_record(output / "one").metrics
    compared = [key for key in one if key.startswith("train/")]
    assert [two[key] for key in compared] == pytest.approx([one[key] for key in compared], rel=2e-3)


def test_results_that_cannot_be_shown_cost_nothing(
    output: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("detections.parquet is damaged")

    monkeypatch.setattr("studies.report.terminal.print_results", broken)
    monkeypatch.setattr("studies.report.report.write_report", broken)
    study = output / "mine.yaml"
    study.write_text("title: t\nkind: grid\ngrid: {detector.nms_reg: [0.7]}\n")
    sets = assignments(training__epochs=1, training__milestones=[])
    assert main([str(study), "--output", str(output), "--set", *sets]) == 0
    text = capsys.readouterr().out
    assert "Results: cannot be shown: ValueError: detections.parquet is damaged" in text
    assert "1 trained, 0 reused, 0 failed" in text
    assert "MLflow: " in text
    assert text.index("Only the one setting was trained") < text.index("Report: could not be written")
