"""How long a launch will take, in figures: from made-up records of trials on eight images and four."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drcnn.data.prepare import PreparedData, prepare
from drcnn.engine.run_options import RunOptions
from studies.definition.plan import Plan, Trial, expand, search_points
from studies.definition.request import Request
from studies.definition.study import SearchStudy
from studies.definition.trial import Inputs
from studies.execution.dry_run import print_preview
from studies.resources.throughput import ImageTime, estimate_remaining
from studies.search.optuna_record import search_key
from studies.search.searcher import StudySearcher
from studies.transfer.trial_folders import TrialFolders
from studies.transfer.trial_store import TrialStore

GRID = "title: t\nkind: grid\ngrid: {detector.nms_reg: [0.7, 0.75, 0.8, 0.85]}\n"
SEARCH = """\
title: t
kind: search
trials: 3
space: {detector.nms_reg: {low: 0.6, high: 0.9, step: 0.1}}
first: [{detector.nms_reg: 0.6}]
"""
EPOCHS = 4
Make = Callable[..., Plan]
Show = Callable[..., str]


@pytest.fixture
def plan_of(make_plan: Make, tmp_path: Path) -> Make:
    """Plans with eight and four real images; the four are looked at after each epoch."""
    known: list[PreparedData] = []

    def make(study: str, **changes: Any) -> Plan:
        plan = make_plan(study, **{"evaluation__every": 1, "training__epochs": EPOCHS, **changes})
        known[:] = known or [replace(prepare(plan.base.data, tmp_path / "data"), test=None)]
        assert plan.base.training.epochs == EPOCHS
        return replace(plan, inputs=Inputs(lambda data: known[0]))

    return make


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Show:
    """What a preview prints, on a machine of eight cores; a measured image takes a second."""
    monkeypatch.setattr("os.cpu_count", lambda: 8)

    def measure(options: RunOptions, trial: Trial) -> ImageTime:
        # A trial has one core, whatever is free while an estimate is made.
        assert options.threads == 1
        return ImageTime(1.0, 1.0, "measured")

    monkeypatch.setattr("studies.execution.dry_run.measure_image_time", measure)

    def run(plan: Plan, gpus: int = 0, concurrent: int = 1, **asked: Any) -> str:
        monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
        request = Request(plan.name, max_concurrent=concurrent, **asked)
        is_search = isinstance(plan.study, SearchStudy)
        trials = search_points(plan) if is_search else expand(plan, request.listed_seeds)
        print_preview(plan, trials, request, TrialFolders(TrialStore()))
        return capsys.readouterr().out

    return run


def record(
    trial: Trial, images_per_s: float = 2.0, eval_seconds: float = 2.0, epochs: int = EPOCHS, **perf: float
) -> None:
    """A trial that took six seconds an epoch, if nothing else is said."""
    figures = {"val/AP": 0.1, "perf/images_per_s": images_per_s, "perf/eval_seconds": eval_seconds}
    figures |= {f"perf/{name}": value for name, value in perf.items()}
    history = [{"epoch": float(number + 1), **figures} for number in range(epochs)]
    status = "finished" if epochs == EPOCHS else "pruned"
    result = {"status": status, "epoch": epochs, "metrics": history[-1], "history": history, "seconds": 1.0}
    trial.folder.mkdir(parents=True)
    (trial.folder / "config.yaml").write_text(trial.config.to_yaml())
    (trial.folder / "result.json").write_text(json.dumps(result))


@pytest.mark.parametrize(("concurrent", "clock"), [(1, 72), (2, 48), (3, 24), (8, 24)])
def test_trials_side_by_side_take_as_long_as_the_last_of_them(
    concurrent: int, clock: int, plan_of: Make, show: Show
) -> None:
    plan = plan_of(GRID)
    record(expand(plan)[0])
    text = show(plan, concurrent=concurrent)
    assert "4 trials of 4 epochs; 1 of 4 finished" in text
    assert f"Time left: about {clock} s with {concurrent} trials at once" in text
    assert "0.02 core hours" in text
    assert "From finished trials of this output folder; this machine, CPU." in text


def test_a_trial_that_a_search_pruned_is_trained_to_its_end(plan_of: Make, show: Show) -> None:
    plan = plan_of(GRID)
    trials = expand(plan)
    for trial in trials[1:]:
        record(trial)
    record(trials[0], epochs=1)
    text = show(plan, concurrent=2)
    assert "3 of 4 finished" in text
    assert "Time left: about 18 s" in text
    (trials[0].folder / "result.json").unlink()
    record(plan_of(GRID).trial({"detector.nms_reg": 0.6}, 1))
    assert "Time left: about 24 s" in show(plan, concurrent=2)


def test_nothing_is_left_of_a_finished_study(plan_of: Make, show: Show) -> None:
    plan = plan_of(GRID)
    for trial in expand(plan):
        record(trial)
    assert show(plan).splitlines()[-1] == "Nothing is left to do."


def test_what_a_group_of_workers_recorded_is_the_groups(plan_of: Make, show: Show) -> None:
    plan = plan_of(GRID.replace("0.75, 0.8, ", ""))
    # Two workers together: twice the images a second.
    record(expand(plan)[0], images_per_s=4.0, eval_seconds=1.0, workers=2)
    text = show(plan, workers=2)
    assert "Time left: about 12 s with 1 trials at once, 2 worker(s) each; 0.0067 core hours" in text
    assert "Time left: about 24 s" in show(plan), "one worker alone"
    assert "Time left: about 6 s" in show(plan, workers=4)


def test_gpu_hours_are_of_all_workers(plan_of: Make, show: Show) -> None:
    plan = plan_of(GRID.replace("0.75, 0.8, ", ""))
    record(expand(plan)[0], images_per_s=0.04, eval_seconds=100.0, workers=2, gpus=2)
    # An epoch is 8 / 0.04 and 100 seconds, of two GPUs.
    text = show(plan, gpus=4, workers=2)
    assert "Time left: about 20 min" in text
    assert "0.667 GPU hours" in text
    assert "finished trials" in text


def test_a_pace_is_of_its_machine_alone(plan_of: Make, show: Show) -> None:
    plan = plan_of(GRID)
    trials = expand(plan)
    record(trials[0], workers=1, gpus=1)
    record(trials[1], workers=1, gpus=0.25)

    def known(**machine: float) -> dict[str, float]:
        return estimate_remaining(trials[2:], plan.output, None, **machine).seconds  # type: ignore[arg-type]

    assert known() == {}
    assert known(gpus=0.5) == {}
    assert estimate_remaining(2 * trials[2:3], plan.output, None, gpus=1.0).unknown == 0, "the same one twice"
    assert list(known(gpus=1.0).values()) == list(known(gpus=0.25).values()) == [24, 24]
    assert "From measured; this machine, CPU." in show(plan)


def test_detectors_are_trained_before_they_are_evaluated_by_one_worker(plan_of: Make, show: Show) -> None:
    base = "base: {detector.variant: decoupled_cascade}"
    plan = plan_of(f"title: t\nkind: grid\n{base}\ngrid: {{detector.nms_test: [0.5, 0.6]}}\n")
    # Four epochs of 8 + 4 images, then twice 4 images.
    text = show(plan, concurrent=2)
    assert "0 of 3 finished" in text
    assert "Time left: about 52 s" in text
    assert "Time left: about 28 s" in show(plan, concurrent=2, workers=2)


def test_what_a_search_did_is_not_left(plan_of: Make, show: Show) -> None:
    plan = plan_of(SEARCH)
    assert "0 of 3 ended" in (text := show(plan))
    assert "Time left: about 144 s" in text.replace("2 min", "144 s")
    search = StudySearcher(plan, search_key(plan))
    for tune_id, done in zip("abc", (1, 2, 3), strict=True):
        suggested = search.suggest(tune_id)
        assert isinstance(suggested, dict)
        record(suggested["trial"])
        search.on_trial_complete(tune_id, {"val/AP": 0.1})
        text = show(plan)
        assert f"{done} of 3 ended" in text
        assert (f"Time left: about {24 * (3 - done)} s" in text) == (done < 3)
        assert "No time is known" not in text
    assert "Nothing is left to do." in text


def test_ends_of_the_space_that_are_trained_are_not_the_search(plan_of: Make, show: Show) -> None:
    plan = plan_of(SEARCH.replace("trials: 3", "trials: 10"))
    for trial in {trial.id: trial for trial in search_points(plan)}.values():
        record(trial)
    text = show(plan)
    # The first point is known; what the others will be is not.
    assert "1 of 10 ended" in text
    assert f"Time left: about {9 * 24 / 60:.0f} min" in text
    assert "Estimated from 3 settings of the space" in text


def test_a_search_is_confirmed_when_it_is_over(plan_of: Make, show: Show) -> None:
    confirm = "confirm: {top: 1, seeds: 2, against: {detector.nms_reg: 0.85}}\n"
    plan = plan_of(SEARCH.replace("trials: 3", "trials: 1") + confirm)
    assert "Time left: about 4 min" in show(plan), "five trials of 48 s"
    search = StudySearcher(plan, search_key(plan))
    suggested = search.suggest("a")
    assert isinstance(suggested, dict)
    record(suggested["trial"])
    search.on_trial_complete("a", {"val/AP": 0.1})
    assert "Time left: about 96 s" in show(plan)
    record(plan.trial({"detector.nms_reg": 0.85}, 2))
    assert "Time left: about 72 s" in show(plan)


def test_a_budget_shows_what_would_begin(plan_of: Make, show: Show) -> None:
    plan = plan_of(GRID)
    trials = expand(plan, 2)
    record(trials[0])
    # The others take 24 seconds each, and 10 to start; the first two are allowed half as much again.
    text = show(plan, concurrent=2, budget=75.0, seeds=2)
    assert "Budget of 1m15s: 5 of 8 trials would be finished" in text
    assert "3 would be left" in text
    # 4 rounds of 34 seconds are left, and the last needs no allowance.
    enough = next(line for line in text.splitlines() if "is enough" in line)
    assert enough == "  --budget 3m is enough for 2 seeds of each setting."
    assert "is enough" not in show(plan, concurrent=2, budget=180.0, seeds=2)
    assert "is enough" in show(plan, concurrent=2, budget=120.0, seeds=2)
    assert "Time left: about 48 s with 2 trials at once" in text
    assert trials[4].name in text
    assert trials[5].name not in text
    assert "One seed a setting can show nothing about settings" in text, "not every setting has its second"
    text = show(plan, concurrent=2, budget=3600.0)
    assert "40 of 40 trials would be finished" in text
    assert "Smallest difference that 10 seeds a setting can show" in text
    text = show(plan, concurrent=1, budget=60.0, seeds=1)
    assert "is enough for 1 seed of each setting" in text
    assert "is enough for 2" not in text, "a second seed is not asked for"
    text = show(plan, concurrent=1, budget=20.0)
    assert "3 of 4 settings would have no trial to compare." in text
    assert text.splitlines()[-1] == "Nothing would begin within this budget."


def test_a_budget_of_a_search_keeps_time_for_its_confirmation(plan_of: Make, show: Show) -> None:
    confirm = "confirm: {top: 1, seeds: 2, against: {detector.nms_reg: 0.85}}\n"
    # A trial takes 48 seconds and 10 to start: four confirm, two at a time.
    text = show(plan_of(SEARCH + confirm), concurrent=2, budget=450.0)
    assert (
        "Budget of 7m30s: about 3 of 3 trials of the search would begin, then 4 of 4 that confirm it" in text
    )
    text = show(plan_of(SEARCH + confirm), concurrent=2, budget=300.0)
    assert "no trial of the search would begin; time for 4 that confirm it is kept" in text


def test_a_study_says_what_it_can_show(plan_of: Make, show: Show) -> None:
    plan = plan_of(GRID)
    text = show(plan, seeds=3)
    assert "Smallest difference that 3 seeds a setting can show: " in text
    assert "4 images" in text
    assert "From nms_sweep with the laptop profile on digits" in text
    text = show(plan, seeds=1)
    assert "One seed a setting can show nothing about settings" in text
    assert "--seeds 3 would show differences above" in text
    assert "can show" not in show(plan_of("title: t\nkind: grid\ngrid: {detector.nms_reg: [0.7]}\n"))
    confirm = "confirm: {top: 1, seeds: 3, against: {detector.nms_reg: 0.85}}\n"
    assert "Smallest difference that 3 seeds a setting can show" in show(plan_of(SEARCH + confirm))
