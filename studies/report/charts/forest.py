"""The picture at the top of a report: every setting against the baseline, here and in the paper."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from drcnn.report.blocks import Picture
from drcnn.report.chart_style import Theme, draw, draw_legend, in_points
from studies.analysis.replicates import Setting
from studies.analysis.verdicts import Verdict
from studies.definition.metrics import points
from studies.report.facts import ReportFacts

__all__ = ["ForestRow", "forest_chart", "forest_rows"]

OFFSET = 0.16  # of our mark above a row's centre, and of the paper's below it
LABEL_WIDTH = 22  # characters in a line


@dataclass(frozen=True)
class ForestRow:
    """A setting minus the baseline; fractions of 1, nan where there is none.

    Attributes:
        label: the setting's.
        here: the difference.
        low: the lower end of its 95 % interval; ``high`` the upper one.
        verdict: what that shows; none where one of the two has a single seed.
        paper: the paper's difference of the same two settings.
    """

    label: str
    here: float
    low: float
    high: float
    verdict: Verdict | None
    paper: float


def forest_rows(facts: ReportFacts) -> list[ForestRow]:
    """A row for each setting with a figure here or in the paper.

    Empty if the baseline has no figure, and of a search that is not confirmed: the settings of its single
    runs cannot be compared.
    """
    baseline = facts.baseline
    if baseline is None or facts.is_unconfirmed or not baseline.values(facts.metric):
        return []
    comparison_of = {comparison.label: comparison for comparison in facts.baseline_comparisons}
    rows = []
    for setting in facts.compared:
        if setting is baseline:
            continue
        paper = _papers_difference(facts, setting, baseline)
        if comparison := comparison_of.get(setting.label):
            ours = comparison.difference
            row = ForestRow(setting.label, ours.value, ours.low, ours.high, comparison.verdict, paper)
        else:
            here = setting.mean(facts.metric) - baseline.mean(facts.metric)
            row = ForestRow(setting.label, here, math.nan, math.nan, None, paper)
        if not (math.isnan(row.here) and math.isnan(row.paper)):
            rows.append(row)
    return rows


def _papers_difference(facts: ReportFacts, setting: Setting, baseline: Setting) -> float:
    """From the first of the paper's tables that has both."""
    for table in facts.tables:
        figures = {own.label: row.figures for row, own in table.rows}
        both = [figures.get(own.label, {}).get(facts.metric, math.nan) for own in (setting, baseline)]
        if not math.isnan(both[0] - both[1]):
            return (both[0] - both[1]) / 100
    return math.nan


def forest_chart(rows: Sequence[ForestRow], baseline: str, metric: str, margin: float) -> Picture:
    """Draw each setting's difference from the baseline, with its interval and the paper's beside it.

    Args:
        rows: at least one.
        baseline: its label.
        metric: the name of the metric.
        margin: the difference, a fraction, within which settings are equivalent.
    """
    labels = [textwrap.fill(row.label, LABEL_WIDTH, break_long_words=False) for row in rows]
    lines = sum(label.count("\n") + 1 for label in labels)
    name = textwrap.fill(f"{metric} × 100, minus that of {baseline}", 52, break_long_words=False)
    kinds = {row.verdict for row in rows if not math.isnan(row.here)}

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        if kinds - {None}:
            label = f"within ±{100 * margin:g}: equivalent"
            axes.axvspan(-margin, margin, color=theme.faint, alpha=0.35, linewidth=0, label=label, zorder=0)
        axes.axvline(0, color=theme.ink, linewidth=0.8, zorder=1)
        _draw_rows(axes, theme, rows)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlabel(name, loc="right")  # centred, a long one would leave the page
        axes.grid(axis="x")
        in_points(axes.xaxis)
        draw_legend(figure, axes, columns=2)

    alt = "; ".join(_in_words(row) for row in rows)
    compared = sum(row.verdict is not None for row in rows)
    caption = f"Each setting's {metric}, minus the baseline's."
    if compared:
        caption += " Lines: 95 % intervals, each by itself; one that goes on ends in an arrow."
    if compared > 1:
        caption += " The verdicts are corrected for the number of comparisons made together."
    if None in kinds:
        caption += " A cross: not compared, for want of seeds; it says nothing about its setting."
    height = 0.95 + max(0.36 * len(rows), 0.19 * lines) + 0.2 * math.ceil((len(kinds) + 2) / 2)
    alt = f"Forest plot of the difference of {metric} × 100 from {baseline}. {alt}."
    return draw("against_baseline.png", alt, caption, height, paint)


def _in_words(row: ForestRow) -> str:
    here = points(row.here, signed=True)
    if not math.isnan(row.low):
        here += f" ({points(row.low, signed=True)} to {points(row.high, signed=True)}, {row.verdict})"
    paper = "" if math.isnan(row.paper) else f", {points(row.paper, signed=True)} in the paper"
    return f"{row.label} {here} here{paper}"


def _draw_rows(axes: Axes, theme: Theme, rows: Sequence[ForestRow]) -> None:
    """Draw a mark for each row, by verdict; an interval that goes on beyond the axis ends in an arrow."""
    places = np.arange(len(rows))
    here, paper = (np.array([getattr(row, name) for row in rows]) for name in ("here", "paper"))
    # An interval from two seeds may be infinite.
    ends = np.clip([[row.low, row.high] for row in rows], -1, 1)
    axes.hlines(places - OFFSET, *ends.T, color="C0", linewidth=1.6, zorder=2)
    kinds: dict[Verdict | None, tuple[str, str, str]] = {
        Verdict.SIGNIFICANT: ("o", "C0", "significant"),
        Verdict.EQUIVALENT: ("s", "C2", "equivalent"),
        Verdict.UNDECIDED: ("o", theme.page, "undecided"),
        None: ("x", "C0", "here, too few seeds"),
    }
    for kind, (marker, fill, label) in kinds.items():
        chosen = np.array([row.verdict is kind for row in rows]) & ~np.isnan(here)
        if chosen.any():
            edge = "C2" if kind is Verdict.EQUIVALENT else "C0"
            axes.plot(
                here[chosen],
                places[chosen] - OFFSET,
                marker,
                markerfacecolor=fill,
                markeredgecolor=edge,
                markersize=7,
                label=label if kind is None else f"here, {label}",
                zorder=3,
            )
    if not np.isnan(paper).all():
        axes.plot(paper, places + OFFSET, "D", color="C1", label="in the paper", markersize=5.5, zorder=3)
    # An interval from two seeds may be so wide that nothing else could be seen.
    reach = 4 * max(0.01, float(np.nanmax(np.abs([*here, *paper]))))
    low, high = np.clip(axes.get_xlim(), -reach, reach)
    axes.set_xlim(low, high)
    _draw_arrows(axes, low, "<", places[ends[:, 0] < low] - OFFSET)
    _draw_arrows(axes, high, ">", places[ends[:, 1] > high] - OFFSET)


def _draw_arrows(axes: Axes, end: float, marker: str, rows: NDArray[np.float64]) -> None:
    """Mark the intervals that go on beyond an end of the axis."""
    if len(rows):
        (arrows,) = axes.plot(np.full(len(rows), end), rows, marker, color="C0", clip_on=False, zorder=4)
        arrows.set_in_layout(False)
