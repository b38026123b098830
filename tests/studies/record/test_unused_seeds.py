"""Which trials are shown of a study whose number of seeds a budget decides."""

from __future__ import annotations

from collections.abc import Callable

from drcnn.engine.record import write_failed
from studies.definition.plan import Plan, expand
from studies.definition.request import MOST_SEEDS, Request
from studies.record.completion import without_unused_seeds

GRID = "title: t\nkind: grid\ngrid: {detector.nms_reg: [0.7, 0.8, 0.9]}\n"


def test_seeds_that_no_launch_got_to_are_not_shown(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    trials = expand(make_plan(GRID), MOST_SEEDS)
    assert without_unused_seeds(trials) == trials[:3], "a setting without a trial is seen to be left"
    for trial in (*trials[:2], trials[4]):
        finish(trial.folder, [0.1])
    write_failed(trials[6].folder, "why")
    assert without_unused_seeds(trials) == [*trials[:3], trials[4], trials[6]]


def test_a_budget_decides_on_the_seeds_only_if_nothing_else_does() -> None:
    assert Request("nms_sweep", budget=60.0).listed_seeds == MOST_SEEDS
    assert Request("nms_sweep", budget=60.0, seeds=2).listed_seeds == 2
    assert Request("nms_sweep", budget=60.0, smoke=True).listed_seeds is None
    assert Request("nms_sweep").listed_seeds is None
