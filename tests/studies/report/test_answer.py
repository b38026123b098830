"""The two sentences that a report begins with."""

from __future__ import annotations

import math

import pytest

from drcnn.engine.bootstrap import Difference
from studies.analysis.paper import Effect
from studies.report.answer import _seen


@pytest.mark.parametrize(
    ("low", "p_holm", "words"),
    [
        (0.007, 0.01, "is seen here"),
        (0.007, 0.06, "is undecided here, as p is corrected for all comparisons"),
        (-0.007, 0.5, "is undecided here"),
    ],
)
def test_an_undecided_change_does_not_contradict_its_interval(low: float, p_holm: float, words: str) -> None:
    ours = Difference(0.021, low, 0.035, math.nan)
    assert _seen(Effect("stages=3", "stages=1", "AP", 2.1, ours, p_holm, 0.005)) == words


def test_a_change_that_the_interval_excludes_is_not_undecided() -> None:
    ours = Difference(-0.006, -0.012, 0.001, math.nan)
    effect = Effect("NMS_reg=0.85", "NMS_reg=0.7", "AP", 1.6, ours, 0.25, 0.005)
    assert _seen(effect) == "is not seen here: a change as large lies outside the interval"


def test_of_a_change_that_is_about_none_in_the_paper_nothing_is_not_seen() -> None:
    ours = Difference(-0.006, -0.012, 0.001, math.nan)
    effect = Effect("NMS_reg=0.85", "NMS_reg=0.7", "AP50", 0.3, ours, 0.25, 0.005)
    assert _seen(effect) == "is about none; here: undecided"
