from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from drcnn.engine.record import write_failed
from drcnn.trained_model import find_model
from studies.definition.plan import Plan, expand, search_points
from studies.record.results import Choice, choose, publish_best, ranked, write_results


def test_results_parquet_has_one_row_a_trial(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan("nms_sweep")
    trials = expand(plan)[:3]
    finish(trials[0].folder, [0.3, 0.4])
    finish(trials[1].folder, [0.3, 0.5])
    write_failed(trials[2].folder, "TrainingDiverged: so it is")
    write_results(plan.folder / "results.parquet", trials)
    rows = pq.read_table(plan.folder / "results.parquet").to_pylist()
    assert [row["trial_id"] for row in rows] == [trial.id for trial in trials]
    assert [row["status"] for row in rows] == ["finished", "finished", "failed"]
    assert rows[1]["detector.nms_reg"] == 0.75
    assert rows[1]["val/AP"] == 0.5
    assert rows[2]["error"] == "TrainingDiverged: so it is"
    assert ranked(trials, "val/AP") == [(trials[1], 0.5), (trials[0], 0.4)]


def test_the_best_trial_is_published_by_a_path_that_survives_a_move(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan("nms_sweep")
    trials = expand(plan)[:2]
    assert publish_best(plan, trials) is None
    assert not (plan.folder / "published.json").exists()
    finish(trials[0].folder, [0.3, 0.4])
    finish(trials[1].folder, [0.3, 0.5])
    (trials[1].folder / "last.safetensors").touch()
    assert publish_best(plan, trials) == trials[1]
    found = find_model(str(plan.folder))
    assert found.checkpoint.resolve() == (trials[1].folder / "last.safetensors").resolve()
    assert found.changes == {}


def test_the_setting_of_the_highest_mean_is_published_not_the_luckiest_run(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan("nms_sweep")
    settings = len(expand(plan, 1))
    trials = expand(plan, 2)
    lucky, steady = (trials[0], trials[settings]), (trials[1], trials[settings + 1])
    for trial, value in zip((*lucky, *steady), (0.6, 0.3, 0.48, 0.5), strict=True):
        finish(trial.folder, [value])
    choice = choose(plan, trials)
    assert choice is not None
    assert (choice.trial, choice.mean, choice.seeds) == (steady[1], pytest.approx(0.49), 2)
    assert publish_best(plan, trials) == steady[1]


def test_of_a_search_a_setting_that_was_confirmed_is_published(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan("search")
    searched = search_points(plan)[:: len(search_points(plan)) - 1]
    for trial, value in zip(searched, (0.6, 0.5), strict=True):
        finish(trial.folder, [value])
    assert choose(plan, searched) == Choice(searched[0], 0.6, 1)
    config = searched[1].config
    again = [plan.trial_of_config(config.model_copy(update={"seed": seed})) for seed in (101, 102)]
    # One seed of another setting, as a budget may leave it, is no mean.
    lucky = plan.trial_of_config(searched[0].config.model_copy(update={"seed": 101}))
    finish(lucky.folder, [0.7])
    for trial, value in zip(again, (0.4, 0.42), strict=True):
        finish(trial.folder, [value])
    choice = choose(plan, [*searched, lucky, *again])
    assert choice is not None
    assert (choice.trial, choice.seeds) == (again[1], 2)


def test_of_an_evaluation_the_detector_is_published_with_its_settings(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan("nms_sweep")
    model = expand(plan)[0]
    evaluation = replace(
        model,
        id="evaluation",
        model=model,
        folder=model.folder / "evaluations/1",
        config=model.config.with_changes({"detector.nms_final": 0.4}),
    )
    finish(model.folder, [0.3, 0.4])
    finish(evaluation.folder, [0.6])
    (model.folder / "last.safetensors").touch()
    assert publish_best(plan, [model, evaluation]) == evaluation
    found = find_model(str(plan.folder))
    assert found.checkpoint.resolve() == (model.folder / "last.safetensors").resolve()
    assert found.changes == {"detector.nms_final": 0.4}
