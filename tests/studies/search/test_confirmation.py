from __future__ import annotations

from collections.abc import Callable

from studies.definition.plan import Plan, Trial
from studies.search.confirmation import confirming_trials

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
    found = confirming_trials(plan, trials, None)
    assert [(trial.varied["detector.nms_reg"], trial.config.seed) for trial in found] == [
        (setting, seed) for seed in (2, 3, 4) for setting in (0.8, 0.7, 0.85)
    ]
    assert len(confirming_trials(plan, trials, 2)) == 6
    # An ordinary trial: whoever trained the same configuration has trained this one.
    assert found[0].id == plan.trial({"detector.nms_reg": 0.8}, 2).id


def test_the_papers_setting_is_confirmed_once_if_it_is_among_the_best(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan(SEARCH)
    trials = searched(plan, finish, {0.85: 0.5, 0.7: 0.3, 0.8: 0.1})
    found = confirming_trials(plan, trials, None)
    assert [trial.varied["detector.nms_reg"] for trial in found[:2]] == [0.85, 0.7]


def test_nothing_is_confirmed_before_a_trial_finished_or_if_not_asked_for(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan(SEARCH)
    assert confirming_trials(plan, [plan.trial({"detector.nms_reg": 0.7}, 1)], None) == []
    alone = make_plan(SEARCH.partition("confirm")[0])
    assert confirming_trials(alone, searched(alone, finish, {0.7: 0.3}), None) == []
