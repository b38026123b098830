from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from matplotlib.figure import Figure
from report_helpers import finish_detector

from drcnn.data.annotations import Annotations
from studies.analysis.verdicts import Verdict
from studies.definition.plan import Plan, Trial, expand
from studies.report.charts.forest import ForestRow, forest_chart, forest_rows
from studies.report.facts import gather_facts

NAN = math.nan


def row(here: float, low: float, high: float, verdict: Verdict | None, paper: float = NAN) -> ForestRow:
    return ForestRow(f"NMS_reg={abs(here)}", here, low, high, verdict, paper)


def test_intervals_that_go_on_have_arrows(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, list[float]]] = []
    monkeypatch.setattr(
        "studies.report.charts.forest._draw_arrows",
        lambda axes, end, marker, rows: drawn.append((marker, rows.round(2).tolist())),
    )
    near = row(0.02, 0.01, 0.03, Verdict.SIGNIFICANT, 0.01)
    far = row(0.02, -0.3, 0.25, Verdict.UNDECIDED)
    forest_chart([near, far], "b", "AP", 0.005)
    # Of the second row, at both ends; once a theme.
    assert drawn == [("<", [0.84]), (">", [0.84])] * 2


def test_an_interval_without_end_leaves_a_picture() -> None:
    rows = [
        row(0.01, -math.inf, math.inf, Verdict.UNDECIDED, 0.01),
        row(-0.001, -0.004, 0.003, Verdict.EQUIVALENT, -0.002),
        row(0.02, NAN, NAN, None),
        row(NAN, NAN, NAN, None, 0.013),
    ]
    chart = forest_chart(rows, "NMS_reg=0.7", "AP", 0.005)
    assert chart.light.startswith(b"\x89PNG")
    assert chart.dark is not None
    assert chart.dark != chart.light
    assert forest_chart(rows, "NMS_reg=0.7", "AP", 0.005) == chart
    assert "NMS_reg=0.001 -0.1 (-0.4 to +0.3, equivalent) here, -0.2 in the paper" in chart.alt
    assert "NMS_reg=0.02 +2.0 here;" in chart.alt
    assert "A cross: not compared, for want of seeds; it says nothing about its setting." in chart.caption
    assert "single" not in forest_chart(rows[:2], "NMS_reg=0.7", "AP", 0.005).caption


def test_a_long_baseline_stays_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[tuple[float, float, float]] = []
    save = Figure.savefig

    def measured(figure: Figure, *arguments: Any, **options: Any) -> None:
        save(figure, *arguments, **options)
        box = figure.axes[0].xaxis.label.get_window_extent()
        ends.append((box.x0, box.x1, figure.bbox.x1))

    monkeypatch.setattr(Figure, "savefig", measured)
    name = "NMS_cls=0.95 NMS_reg=0.8 stages=3 λ=0.75"
    rows = [ForestRow(name, 0.01, -0.01, 0.03, Verdict.UNDECIDED, NAN)]
    forest_chart(rows, "NMS_cls=0.7 NMS_reg=0.85 stages=3 λ=0.5", "AP", 0.005)
    assert len(ends) == 2
    assert all(0 <= left < right <= page for left, right, page in ends)


def finished(plan: Plan, trials: list[Trial], annotations: Annotations) -> list[ForestRow]:
    for trial in trials:
        finish_detector(trial, annotations, blur=5 - 4 * trial.config.detector.nms_reg)
    return forest_rows(gather_facts(plan, trials))


def test_the_papers_differences_are_from_the_same_baseline(
    planned: Callable[..., Plan], annotations: Annotations
) -> None:
    plan = planned("table_03")
    rows = finished(plan, expand(plan, 2), annotations)
    assert [row.label for row in rows] == [f"NMS_reg={n}" for n in (0.7, 0.75, 0.8, 0.9, 0.95)]
    assert [100 * row.paper for row in rows] == pytest.approx([-1.6, -1.3, -0.6, -0.1, -0.5])
    assert all(row.low <= row.here <= row.high and row.verdict for row in rows)


def test_of_single_runs_only_points_are_drawn(planned: Callable[..., Plan], annotations: Annotations) -> None:
    plan = planned("table_03")
    rows = finished(plan, expand(plan, 1), annotations)
    assert {row.verdict for row in rows} == {None}
    assert all(math.isnan(row.low) and math.isnan(row.high) and not math.isnan(row.here) for row in rows)


def test_a_search_shows_what_is_confirmed_and_before_that_nothing(
    searched: tuple[Plan, list[Trial]],
) -> None:
    plan, trials = searched
    (confirmed,) = forest_rows(gather_facts(plan, trials))
    assert (confirmed.label, confirmed.verdict) == ("NMS_reg=0.85 stages=3", Verdict.SIGNIFICANT)
    assert forest_rows(gather_facts(plan, trials[:6])) == []
