from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest

from drcnn.engine.record import Status, TrialRecord
from studies.analysis.replicates import Replicate
from studies.analysis.search_summary import importances, pareto_front
from studies.definition.plan import Trial

COST = "perf/ms_per_image"


def searched(
    varied: dict[str, Any], ap: float, cost: float = 1.0, status: Status = Status.FINISHED
) -> Replicate:
    record = TrialRecord(status, [{"val/AP": ap, COST: cost}])
    return Replicate(cast(Trial, SimpleNamespace(varied=varied)), record, None)


def test_the_front_has_the_trials_that_none_beats_lowest_cost_first() -> None:
    slow, fast, middle = (searched({}, ap, cost) for ap, cost in ((0.6, 9.0), (0.2, 1.0), (0.5, 5.0)))
    others = [
        searched({}, 0.5, 6.0),  # as good as another one, and slower
        searched({}, 0.4, 5.0),
        searched({}, math.nan, 0.5),
        searched({}, 0.9, math.nan),
        searched({}, 0.9, 0.5, Status.PRUNED),
    ]
    assert pareto_front([slow, *others, fast, middle], "val/AP", COST) == [fast, middle, slow]
    assert pareto_front([], "val/AP", COST) == []


def test_the_parameter_that_decides_is_the_most_important() -> None:
    words = ["a", None, True, "b"] * 4
    trials = [searched({"x": 0.1 * n, "word": words[n], "same": 1}, 0.01 * n) for n in range(16)]
    trials.append(searched({"x": 9.0, "word": "a", "same": 1}, 0.9, status=Status.PRUNED))
    shares = importances(trials, ["word", "x", "same"], "val/AP")
    assert list(shares) == ["x", "word"]
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["x"] > 0.8
    assert importances(trials, ["word", "x", "same"], "val/AP") == shares


def test_few_or_equal_trials_have_no_importances() -> None:
    trials = [searched({"x": n}, 0.1 * n) for n in range(4)]
    assert importances(trials[:3], ["x"], "val/AP") == {}
    assert importances([searched({"x": n}, 0.5) for n in range(4)], ["x"], "val/AP") == {}
    assert importances([searched({"x": 1}, 0.1 * n) for n in range(4)], ["x"], "val/AP") == {}
    assert list(importances(trials, ["x"], "val/AP")) == ["x"]
