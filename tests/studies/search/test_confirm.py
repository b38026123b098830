from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from drcnn.engine.record import read_record
from studies.analysis.precision import METRICS
from studies.analysis.replicates import Measured, Replicate, Setting
from studies.analysis.statistics import Resampled
from studies.definition.plan import Plan, Trial
from studies.search.confirmation import compared, replicates_of_best

SEARCH = """\
title: t
kind: search
trials: 4
space:
  detector.nms_reg: {low: 0.6, high: 0.95, step: 0.05}
confirm: {top: 2, seeds: 3, against: {detector.nms_reg: 0.85}}
"""


def searched(plan: Plan, finish: Callable[..., None], values: dict[float, float]) -> list[Trial]:
    trials = []
    for setting, value in values.items():
        trial = plan.trial({"detector.nms_reg": setting}, 1)
        finish(trial.folder, [value])
        trials.append(trial)
    return trials


def test_the_best_and_the_papers_setting_get_seeds_the_search_did_not_use(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan(SEARCH)
    trials = searched(plan, finish, {0.6: 0.1, 0.7: 0.3, 0.8: 0.4})
    found = replicates_of_best(plan, trials, None)
    assert [(trial.varied["detector.nms_reg"], trial.config.seed) for trial in found] == [
        (setting, seed) for setting in (0.8, 0.7, 0.85) for seed in (2, 3, 4)
    ]
    assert len(replicates_of_best(plan, trials, 2)) == 6
    # An ordinary trial: whoever trained the same configuration has trained this one.
    assert found[0].id == plan.trial({"detector.nms_reg": 0.8}, 2).id


def test_the_papers_setting_is_confirmed_once_if_it_is_among_the_best(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan(SEARCH)
    trials = searched(plan, finish, {0.85: 0.5, 0.7: 0.3, 0.8: 0.1})
    found = replicates_of_best(plan, trials, None)
    assert [trial.varied["detector.nms_reg"] for trial in found[::3]] == [0.85, 0.7]


def test_nothing_is_confirmed_before_a_trial_finished_or_if_not_asked_for(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan(SEARCH)
    assert replicates_of_best(plan, [plan.trial({"detector.nms_reg": 0.7}, 1)], None) == []
    alone = make_plan(SEARCH.partition("confirm")[0])
    assert replicates_of_best(alone, searched(alone, finish, {0.7: 0.3}), None) == []


def _replicate(value: float, number: int) -> Resampled:
    draws = value + 0.005 * np.random.default_rng(number).normal(size=200)
    return Resampled(100, 0, dict.fromkeys(METRICS, value), dict.fromkeys(METRICS, draws))


@pytest.mark.parametrize(("lead", "word"), [(0.2, "Best"), (0.0, "not shown")])
def test_the_comparison_is_told_and_kept(
    lead: float,
    word: str,
    make_plan: Callable[..., Plan],
    finish: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = make_plan(SEARCH)
    trials = replicates_of_best(plan, searched(plan, finish, {0.7: 0.3, 0.8: 0.4}), None)

    def group_by_setting(trials: list[Trial]) -> list[Setting]:
        groups: dict[float, list[Replicate]] = {}
        for trial in trials:
            setting = trial.varied["detector.nms_reg"]
            value = 0.4 + lead * (setting == 0.8) + 0.001 * trial.config.seed
            finish(trial.folder, [value])
            measured = Measured(_replicate(value, trial.config.seed + int(1000 * setting)), np.zeros(10))
            groups.setdefault(setting, []).append(Replicate(trial, read_record(trial.folder), measured))
        return [Setting(f"NMS_reg={setting:g}", tuple(runs)) for setting, runs in groups.items()]

    monkeypatch.setattr("studies.analysis.replicates.group_by_setting", group_by_setting)
    plan.folder.mkdir(parents=True)
    first, *others = compared(plan, trials)
    assert word in first
    assert len(others) == 2
    assert all("NMS_reg=0.85" in sentence for sentence in others)
    record = json.loads((plan.folder / "confirm.json").read_text())
    assert record["reference"] == "NMS_reg=0.85"
    assert [len(setting["trials"]) for setting in record["settings"]] == [3, 3, 3]
    assert len(record["winner"]) == 2
