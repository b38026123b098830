"""The charts of every study: AP over IoU thresholds, AP by epoch, and the changes beside the paper's."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from drcnn.engine.metrics import IOU_THRESHOLDS
from studies.analysis.paper import Effect
from studies.analysis.replicates import Setting
from studies.report.charts import MARKERS, MOST, Theme, draw
from studies.report.document import Picture

__all__ = ["ap_by_epoch", "ap_over_iou", "changes"]

# Letters in a line of a legend.
LEGEND = 56


def ap_over_iou(settings: Sequence[Setting], reference: Setting) -> Picture:
    """AP at each IoU threshold, and below it the difference from the reference, where settings part."""
    shown = [setting for setting in settings if setting.resampled]
    named = _named(shown, reference)
    curves = {setting.label: _curve(setting) for setting in shown}
    base = _curve(reference)

    def paint(figure: Figure, theme: Theme) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        assert isinstance(top, Axes)
        assert isinstance(bottom, Axes)
        _series(top, theme, IOU_THRESHOLDS, curves, named)
        _series(bottom, theme, IOU_THRESHOLDS, {name: curve - base for name, curve in curves.items()}, named)
        _grid(top, theme)
        _grid(bottom, theme)
        bottom.axhline(0, color=theme.ink, linewidth=0.8)
        top.set_ylabel("AP × 100")
        top.set_ylim(bottom=0)
        bottom.set_ylabel("difference")
        bottom.set_xlabel("IoU threshold: how well a box must fit")
        bottom.set_xticks(IOU_THRESHOLDS[::2])
        _legend(figure, top)

    best = max(curves, key=lambda name: float(curves[name].mean()))
    alt = (
        f"Line chart of AP over IoU thresholds for {len(shown)} settings. All fall as boxes must fit better: "
        f"{best} from {curves[best][0]:.1f} at 0.50 to {curves[best][-1]:.1f} at 0.95."
    )
    caption = (
        "Above: AP at each IoU threshold, mean over seeds. "
        f"Below: the same minus that of {reference.label}.{_others(shown, named)}"
    )
    return draw("ap_over_iou.png", alt, caption, 4.9 + _legend_height(named), paint)


def ap_by_epoch(settings: Sequence[Setting], key: str) -> Picture:
    """A validation figure after each epoch, mean over the seeds that got so far."""
    found = {setting.label: _by_epoch(setting, key) for setting in settings}
    shown = [setting for setting in settings if len(found[setting.label])]
    curves = {setting.label: found[setting.label] for setting in shown}
    named = _named(shown)
    metric = key.removeprefix("val/")

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        epochs = np.arange(1, max(map(len, curves.values())) + 1)
        _series(axes, theme, epochs, curves, named)
        _grid(axes, theme)
        axes.set_xticks(epochs[:: max(1, len(epochs) // 12)])
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"{metric} × 100")
        axes.set_ylim(bottom=0)
        _legend(figure, axes)

    highest = max(curves, key=lambda name: _last(curves[name]))
    alt = (
        f"Line chart of {metric} by epoch for {len(shown)} settings; the highest last value is "
        f"{_last(curves[highest]):.1f}, of {highest}."
    )
    caption = f"{metric} on the test images after each epoch, mean over seeds.{_others(shown, named)}"
    return draw("ap_by_epoch.png", alt, caption, 3.4 + _legend_height(named), paint)


def changes(table: str, panels: Mapping[str, Sequence[Effect]]) -> Picture:
    """Changes from a table's first row: ours with 95 % intervals, and the paper's; a panel a metric."""
    rows = next(iter(panels.values()))
    labels = [textwrap.fill(effect.label, 24, break_long_words=False) for effect in rows]
    lines = sum(label.count("\n") + 1 for label in labels)

    def paint(figure: Figure, theme: Theme) -> None:
        grid = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        places = np.arange(len(rows))
        for axes, (metric, effects) in zip(grid, panels.items(), strict=True):
            ours = 100 * np.array([effect.ours.value for effect in effects])
            # From two seeds it may have no end.
            ends = 100 * np.clip([[effect.ours.low, effect.ours.high] for effect in effects], -1, 1)
            bars = axes.errorbar(
                ours,
                places - 0.12,
                xerr=np.abs(ends.T - ours),
                fmt="o",
                color=theme.colors[0],
                markerfacecolor=theme.page,
                capsize=3,
            )
            bars.set_label("here, 95 % interval, uncorrected")
            shown = [effect.is_significant for effect in effects]
            axes.plot(
                ours[shown],
                places[shown] - 0.12,
                "o",
                color=theme.colors[0],
                label="here, a change is shown",
                zorder=3,
            )
            theirs = [effect.paper for effect in effects]
            axes.plot(theirs, places + 0.16, "D", color=theme.colors[1], label="paper", markersize=6)
            # An interval from two seeds may be so wide that nothing else would be seen.
            reach = 4 * max(1.0, float(np.abs([*ours, *theirs]).max()))
            low, high = axes.get_xlim()
            low, high = max(low, -reach), min(high, reach)
            axes.set_xlim(low, high)
            _arrows(axes, theme, low, "<", places[ends[:, 0] < low] - 0.12)
            _arrows(axes, theme, high, ">", places[ends[:, 1] > high] - 0.12)
            axes.axvline(0, color=theme.ink, linewidth=0.8)
            axes.set_xlabel(f"change of {metric} × 100")
            axes.set_yticks(places, labels)
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.grid(axis="x", color=theme.faint, linewidth=0.5, alpha=0.6)
        _legend(figure, grid[0])

    described = "; ".join(
        f"{effect.metric} of {effect.label} {100 * effect.ours.value:+.1f} here, {effect.paper:+.1f} there"
        for effects in panels.values()
        for effect in effects
    )
    alt = f"Changes from {rows[0].baseline}, here and in the paper. {described}."
    from_first = len({effect.baseline for effect in rows}) == 1
    base = rows[0].baseline if from_first else "the first setting of the same backbone"
    caption = (
        f"{table}: change from {base}. A filled circle is a change that is shown; a hollow one is "
        "none, even if its interval misses 0: intervals are of one comparison alone, and for each metric "
        f"{'there is 1' if len(rows) == 1 else f'there are {len(rows)}'}. An arrow: the interval goes on."
    )
    file = f"changes_{table.lower().replace(' ', '_')}.png"
    return draw(file, alt, caption, 1.1 + len(panels) * (0.7 + max(0.34 * len(rows), 0.19 * lines)), paint)


def _arrows(axes: Axes, theme: Theme, end: float, mark: str, places: NDArray[np.float64]) -> None:
    """Where intervals go on beyond an end of the axis."""
    if len(places):
        ends = np.full(len(places), end)
        (line,) = axes.plot(ends, places, mark, color=theme.colors[0], clip_on=False, zorder=4)
        line.set_in_layout(False)


def _named(settings: Sequence[Setting], *also: Setting) -> list[str]:
    """The settings drawn in colours of their own; more than these could not be told apart."""
    ranked = [*also, *sorted(settings, key=lambda setting: -np.nan_to_num(setting.mean("val/AP")))]
    chosen = list(dict.fromkeys(setting.label for setting in ranked))[:MOST]
    return [setting.label for setting in settings if setting.label in chosen]


def _series(
    axes: Axes,
    theme: Theme,
    x: NDArray[Any],
    curves: Mapping[str, NDArray[np.float64]],
    named: Sequence[str],
) -> None:
    """Draw a curve a setting: those named in colours, the others thin and grey behind them."""
    for name, curve in curves.items():
        if name in named:
            number = named.index(name)
            axes.plot(
                x[: len(curve)],
                curve,
                color=theme.colors[number],
                marker=MARKERS[number],
                markersize=5,
                linewidth=1.6,
                label=name,
                zorder=3,
            )
        else:
            axes.plot(x[: len(curve)], curve, color=theme.faint, linewidth=0.9, zorder=2)


def _grid(axes: Axes, theme: Theme) -> None:
    axes.grid(axis="y", color=theme.faint, linewidth=0.5, alpha=0.6)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    labels = [textwrap.fill(label, LEGEND) for label in labels]
    figure.legend(handles, labels, loc="outside lower left", ncols=1, frameon=False, fontsize=9)


def _legend_height(named: Sequence[str]) -> float:
    """Inches."""
    return 0.2 * sum(len(textwrap.wrap(name, LEGEND)) for name in named)


def _curve(setting: Setting) -> NDArray[np.float64]:
    """float[10], × 100, mean over seeds."""
    mean: NDArray[np.float64] = 100 * np.mean([each.curve for each in setting.resampled], axis=0)
    return mean


def _by_epoch(setting: Setting, key: str) -> NDArray[np.float64]:
    """float[E], × 100; nan for an epoch without the figure."""
    histories = [run.record.history for run in setting.replicates if run.record.history]
    longest = max(map(len, histories), default=0)
    values = np.full((len(histories), longest), math.nan)
    for row, history in zip(values, histories, strict=True):
        row[: len(history)] = [100 * record.get(key, math.nan) for record in history]
    counts = np.maximum((~np.isnan(values)).sum(axis=0), 1)
    mean: NDArray[np.float64] = np.nansum(values, axis=0) / counts
    mean[np.isnan(values).all(axis=0)] = math.nan
    return mean if not np.isnan(mean).all() else mean[:0]


def _last(curve: NDArray[np.float64]) -> float:
    return float(curve[~np.isnan(curve)][-1])


def _others(settings: Sequence[Setting], named: Sequence[str]) -> str:
    rest = len(settings) - len(named)
    return f" Grey lines: {rest} further settings." if rest else ""
