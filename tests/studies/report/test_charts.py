from __future__ import annotations

import math
from dataclasses import replace

import pytest

from studies.analysis.bootstrap import Difference
from studies.analysis.paper import Effect
from studies.report.charts.results import effects_chart


def effect(paper: float, ours: float, p: float, metric: str = "AP90") -> Effect:
    return Effect(
        "NMS_reg=0.85", "NMS_reg=0.7", metric, paper, Difference(ours, ours - 0.01, ours + 0.01, p), p
    )


def test_intervals_that_go_on_have_arrows(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, list[float]]] = []
    monkeypatch.setattr(
        "studies.report.charts.results._draw_arrows",
        lambda axes, end, marker, rows: drawn.append((marker, rows.round(2).tolist())),
    )
    near, far = (
        effect(1.0, 0.02, 0.01, "AP"),
        replace(effect(1.0, 0.02, 0.5, "AP"), ours=Difference(0.02, -0.3, 0.25, 0.5)),
    )
    chart = effects_chart("Table III", {"AP": [near, far]})
    # Of the second row, at both ends; once a theme.
    assert drawn == [("<", [0.86]), (">", [0.86])] * 2
    assert "A filled circle is a significant change" in chart.caption
    assert "there are 2 comparisons" in chart.caption


def test_an_interval_without_end_leaves_a_chart() -> None:
    endless = Effect("a", "b", "AP", 1.0, Difference(0.01, -math.inf, math.inf, 0.99), 0.99)
    unknown = Effect("c", "b", "AP", 1.0, Difference(0.01, math.nan, math.nan, 1.0), 1.0)
    chart = effects_chart("Table III", {"AP": [endless, effect(1.0, 0.02, 0.5, "AP"), unknown]})
    assert chart.light.startswith(b"\x89PNG")
    assert chart.dark is not None
    assert chart.dark != chart.light
    assert effects_chart("Table III", {"AP": [endless, effect(1.0, 0.02, 0.5, "AP"), unknown]}) == chart
    assert "a +1.0 here, +1.0 in the paper" in chart.alt
