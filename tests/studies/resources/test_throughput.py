"""Estimates from what finished trials recorded, and from a few steps measured now."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from study_helpers import TINY

from drcnn.data.prepare import prepare
from drcnn.engine.record import read_record, write_finished
from drcnn.engine.run_options import RunOptions
from drcnn.engine.train import fit
from studies.definition.overrides import Overrides
from studies.definition.plan import Plan, Trial, expand, trained_models
from studies.definition.study_file import parse
from studies.definition.trial import Inputs
from studies.resources.throughput import estimate_remaining, measure_image_time

STUDY = """\
title: t
kind: grid
base: {detector.variant: decoupled_cascade}
rows:
  - {detector.test_stage: 3, detector.score_thr: 0.0}
  - {detector.test_stage: 1, detector.score_thr: 0.0}
"""


@pytest.fixture
def trials(tmp_path: Path) -> list[Trial]:
    """Two finished evaluations of a detector that was really trained."""
    study = parse(STUDY, "mine.yaml")
    overrides = Overrides.resolve(study, "laptop", "digits", {**TINY, "training.epochs": 2})
    plan = Plan("mine", overrides, tmp_path, Inputs(partial(prepare, cache=tmp_path / "data")))
    trials = expand(plan)
    (model,) = trained_models(trials)
    fit(model.config, model.data, model.folder, report=lambda metrics: None, options=RunOptions(threads=1))
    for trial in trials:
        write_finished(trial.folder, [{"epoch": 2.0}], {}, seconds=1.0, made_by={})
    return trials


def test_an_estimate_asks_finished_trials_and_measures_the_rest(trials: list[Trial], tmp_path: Path) -> None:
    model = trials[0].model
    assert model is not None
    assert estimate_remaining([model, *trials], tmp_path, None).seconds == {}
    recorded = replace(model, id="recorded", config=model.config.with_changes({"seed": 2}))
    measured = replace(model, id="measured", config=model.config.with_changes({"detector.stages": 1}))
    unfinished = [replace(trial, folder=tmp_path / "trials" / trial.id) for trial in (recorded, measured)]
    measure = partial(measure_image_time, RunOptions(threads=1))
    estimate = estimate_remaining(unfinished, tmp_path, measure)
    assert all(0 < seconds < 600 for seconds in estimate.seconds.values())
    assert estimate.sources == ("finished trials of this output folder", "a few steps measured now")
    metrics = read_record(model.folder).metrics
    assert metrics["perf/workers"] == 1
    epochs = 2 * 8 / metrics["perf/images_per_s"]
    # Val and test are evaluated after the last epoch only.
    assert estimate.seconds["recorded"] == pytest.approx(epochs + metrics["perf/eval_seconds"])
    looking = replace(
        recorded, config=recorded.config.with_changes({"evaluation.every": 1}), folder=tmp_path / "x"
    )
    more = estimate_remaining([looking], tmp_path, None).seconds["recorded"]
    assert more == pytest.approx(epochs + 1.5 * metrics["perf/eval_seconds"])
