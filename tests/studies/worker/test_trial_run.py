"""Settings of inference on a detector that was really trained, without Ray."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pyarrow.parquet as pq
import pytest
from study_helpers import TINY

from benchmarks.processes import descendants
from drcnn.config import Config
from drcnn.data.prepare import prepare
from drcnn.detector.box_heads import Stage
from drcnn.engine.record import LATENCY, read_record, write_failed
from drcnn.engine.run_options import RunOptions
from drcnn.engine.train import fit
from studies.definition.overrides import Overrides
from studies.definition.plan import Plan, Trial, expand, trained_models
from studies.definition.study_file import parse
from studies.definition.trial import Inputs
from studies.transfer.trial_folders import TrialFolders
from studies.transfer.trial_store import TrialStore
from studies.worker import companion
from studies.worker.job import Job, WorkerGroup
from studies.worker.trial_run import evaluate, run_trial, time_inference

STUDY = """\
title: t
kind: grid
base: {detector.variant: decoupled_cascade}
rows:
  - {detector.test_stage: null, detector.score_thr: 0.0}
  - {detector.test_stage: 3, detector.score_thr: 0.0}
  - {detector.test_stage: 1, detector.score_thr: 0.0}
"""
HERE = RunOptions(threads=1)


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> list[Trial]:
    """Two evaluations of one trained detector."""
    output = tmp_path_factory.mktemp("runs")
    study = parse(STUDY, "mine.yaml")
    overrides = Overrides.resolve(study, "laptop", "digits", {**TINY, "training.epochs": 2})
    plan = Plan("mine", overrides, output, Inputs(partial(prepare, cache=output / "data")))
    found = expand(plan)
    (model,) = trained_models(found)
    fit(model.config, model.data, model.folder, report=lambda metrics: None, options=HERE)
    for trial in found:
        evaluate(trial, HERE)
    return found


def detections(trial: Trial) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pq.read_table(trial.folder / "detections.parquet").to_pylist()
    return rows


def test_an_evaluation_is_recorded_like_a_trial_of_its_last_epoch(trials: list[Trial]) -> None:
    for trial in trials:
        found = read_record(trial.folder)
        assert found.is_finished
        assert found.metrics["epoch"] == 2
        assert "val/AP" in found.metrics
        kept = Config.from_yaml((trial.folder / "config.yaml").read_text())
        assert kept == trial.config


def test_settings_of_inference_take_effect(trials: list[Trial]) -> None:
    all_stages, one = trials
    assert (all_stages.config.detector.test_stage, one.config.detector.test_stage) == (3, 1)
    assert detections(all_stages) != detections(one)


def test_latency_is_measured_once_and_shown_with_the_figures(trials: list[Trial]) -> None:
    model = trials[0].model
    assert model is not None
    time_inference(model, HERE)
    first = read_record(model.folder).metrics[LATENCY]
    assert first > 0
    time_inference(model, HERE)
    assert read_record(model.folder).metrics[LATENCY] == first


def test_an_evaluations_latency_is_that_of_its_own_settings(trials: list[Trial]) -> None:
    """Here of a detector that stops after its first stage."""
    one, run_stages = trials[1], []
    with pytest.MonkeyPatch.context() as patch:
        regress = Stage.regress
        patch.setattr(Stage, "regress", lambda self, hidden: run_stages.append(self) or regress(self, hidden))
        time_inference(one, HERE)
    assert read_record(one.folder).metrics[LATENCY] > 0
    assert len(set(run_stages)) == 1


def test_an_evaluation_fails_with_its_detector(make_plan: Callable[..., Plan], trials: list[Trial]) -> None:
    trial = replace(expand(make_plan(STUDY))[1], data=trials[0].data)
    assert trial.model is not None
    write_failed(trial.model.folder, "TrainingDiverged: so it is")
    group = WorkerGroup(1, 1, 0.0, "")
    job = Job(TrialFolders(TrialStore()), HERE, group, measures_latency=False)
    run_trial({"trial": trial, "job": job})
    found = read_record(trial.folder)
    assert found.is_failed
    assert "was not trained" in (found.error or "")
    assert "so it is" in (found.error or "")


def test_inference_is_timed_under_watch(trials: list[Trial], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that hangs is killed, as a training is."""
    commands: list[str] = []

    def look(trial: Trial, options: RunOptions) -> None:
        commands.extend(process.command for process in descendants(os.getpid()))

    monkeypatch.setattr("studies.worker.trial_run.time_inference", look)
    monkeypatch.setattr("studies.worker.trial_run.tune.report", lambda metrics: None)
    job = Job(TrialFolders(TrialStore()), HERE, WorkerGroup(1, 1, 0.0, ""), measures_latency=True)
    run_trial({"trial": trials[0], "job": job})
    assert any(companion.__file__ in command for command in commands)


def test_an_evaluation_with_the_detectors_own_settings_is_its_training(
    make_plan: Callable[..., Plan],
) -> None:
    plan = make_plan(
        STUDY.replace("detector.test_stage: null, detector.score_thr: 0.0", "detector.nms_test: 0.7")
    )
    trials = expand(plan)
    assert trials[0].model is None
    assert {trial.model.id for trial in trials if trial.model} == {trials[0].id}
    assert trained_models(trials) == []


def test_a_part_of_a_gpu_is_recorded_as_such() -> None:
    assert RunOptions(device="cuda", gpu_share=0.25).gpus == 0.25
    assert RunOptions(device="cpu", gpu_share=0.25).gpus == 0
