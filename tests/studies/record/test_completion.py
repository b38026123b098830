from __future__ import annotations

from collections.abc import Callable

import pytest

from drcnn.engine.record import write_latency
from studies.definition.plan import Plan, expand
from studies.record.completion import to_time


@pytest.mark.parametrize(("name", "timed"), [("table_07", 6), ("table_10", 2), ("table_03", 0)])
def test_one_finished_trial_of_each_setting_that_the_paper_times_is_timed(
    name: str, timed: int, make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan(name)
    trials = expand(plan, 2)
    assert to_time(plan, trials) == []
    for trial in trials:
        if trial.config.seed == 2:
            finish(trial.folder, [0.1])
    second = to_time(plan, trials)
    assert len(second) == timed
    assert {trial.config.seed for trial in second} <= {2}
    for trial in trials:
        finish(trial.folder, [0.1])
    assert {trial.config.seed for trial in to_time(plan, trials)} <= {1}
    for trial in second:
        write_latency(trial.folder, 5.0, "cpu")
    assert to_time(plan, trials) == [], "one seed is enough"
