"""The charts of every study besides its first: AP over IoU thresholds, and AP by epoch."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from drcnn.engine.metrics import IOU_THRESHOLDS, mean_of_present
from drcnn.report.blocks import Picture
from drcnn.report.chart_style import MARKERS, MAX_CURVES, Theme, draw, draw_legend, in_points
from studies.analysis.replicates import Setting
from studies.definition.metrics import points

__all__ = ["ap_by_epoch", "ap_over_iou"]

Curves = Mapping[str, NDArray[np.float64]]  # by the label of the setting

LEGEND_WIDTH = 56  # characters in a line


def ap_over_iou(settings: Sequence[Setting], baseline: Setting) -> Picture:
    """Draw AP at each IoU threshold, and below it the difference from the baseline.

    Args:
        settings: those without stored detections are left out.
        baseline: a setting with stored detections.
    """
    curves = {setting.label: _mean_curve(setting) for setting in settings if setting.resampled}
    coloured = _coloured(curves, settings, baseline)
    base = _mean_curve(baseline)

    def paint(figure: Figure, theme: Theme) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        assert isinstance(top, Axes)
        assert isinstance(bottom, Axes)
        _draw_curves(top, theme, IOU_THRESHOLDS, curves, coloured)
        differences = {label: curve - base for label, curve in curves.items()}
        _draw_curves(bottom, theme, IOU_THRESHOLDS, differences, coloured)
        bottom.axhline(0, color=theme.ink, linewidth=0.8)
        top.set_ylabel("AP × 100")
        top.set_ylim(bottom=0)
        bottom.set_ylabel("difference")
        bottom.set_xlabel("IoU threshold: how well a box must fit")
        bottom.set_xticks(IOU_THRESHOLDS[::2])
        draw_legend(figure, top)

    best = max(curves, key=lambda label: float(curves[label].mean()))
    alt = (
        f"Line chart of AP over IoU thresholds for {len(curves)} settings. All fall as boxes must fit "
        f"better: {best} from {points(curves[best][0])} at 0.50 to {points(curves[best][-1])} at 0.95."
    )
    caption = (
        "Above: AP at each IoU threshold, mean over seeds. "
        f"Below: the same minus that of {baseline.label}.{_rest(curves, coloured)}"
    )
    return draw("ap_over_iou.png", alt, caption, 4.9 + _legend_height(coloured), paint)


def ap_by_epoch(settings: Sequence[Setting], key: str) -> Picture:
    """Draw a metric after each epoch, mean over the seeds that got so far.

    Args:
        settings: those without a value are left out; at least one has two.
        key: of the metric, such as 'val/AP'.
    """
    curves = {setting.label: _curve_by_epoch(setting, key) for setting in settings}
    curves = {label: curve for label, curve in curves.items() if not np.isnan(curve).all()}
    coloured = _coloured(curves, settings)
    metric = key.rpartition("/")[2]

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        epochs = np.arange(1, max(map(len, curves.values())) + 1)
        _draw_curves(axes, theme, epochs, curves, coloured)
        axes.set_xticks(epochs[:: max(1, len(epochs) // 12)])
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"{metric} × 100")
        axes.set_ylim(bottom=0)
        draw_legend(figure, axes)

    last = {label: float(curve[~np.isnan(curve)][-1]) for label, curve in curves.items()}
    best = max(last, key=lambda label: last[label])
    alt = (
        f"Line chart of {metric} by epoch for {len(curves)} settings; the highest last value is "
        f"{points(last[best])}, of {best}."
    )
    caption = f"{metric} on the validation images after each epoch, mean over seeds.{_rest(curves, coloured)}"
    return draw("ap_by_epoch.png", alt, caption, 3.4 + _legend_height(coloured), paint)


def _coloured(curves: Curves, settings: Sequence[Setting], *first: Setting) -> list[str]:
    """The labels of the curves with a colour of their own: ``first``, then those of the highest AP."""
    best = sorted(settings, key=lambda setting: -np.nan_to_num(setting.mean("AP")))
    ranked = dict.fromkeys(setting.label for setting in (*first, *best) if setting.label in curves)
    chosen = list(ranked)[:MAX_CURVES]
    return [label for label in curves if label in chosen]


def _draw_curves(
    axes: Axes, theme: Theme, x: NDArray[np.generic], curves: Curves, coloured: Sequence[str]
) -> None:
    """Draw a curve for each setting, those without a colour thin and grey behind the others."""
    for label, curve in curves.items():
        if label in coloured:
            number = coloured.index(label)
            axes.plot(
                x[: len(curve)],
                curve,
                color=f"C{number}",
                marker=MARKERS[number],
                markersize=5,
                linewidth=1.6,
                label=textwrap.fill(label, LEGEND_WIDTH),
                zorder=3,
            )
        else:
            axes.plot(x[: len(curve)], curve, color=theme.faint, linewidth=0.9, zorder=2)
    in_points(axes.yaxis)
    axes.grid(axis="y")


def _legend_height(labels: Sequence[str]) -> float:
    """The height in inches of a legend with these labels."""
    return 0.2 * sum(len(textwrap.wrap(label, LEGEND_WIDTH)) for label in labels)


def _mean_curve(setting: Setting) -> NDArray[np.float64]:
    """float[10], AP at each IoU threshold, mean over seeds."""
    mean: NDArray[np.float64] = np.mean([detector.curve for detector in setting.resampled], axis=0)
    return mean


def _curve_by_epoch(setting: Setting, key: str) -> NDArray[np.float64]:
    """float[E], the mean of a metric over seeds after each epoch; nan where no seed has it."""
    histories = [replicate.record.history for replicate in setting.replicates]
    values = [[epoch.get(key, math.nan) for epoch in history] for history in histories]
    epochs = itertools.zip_longest(*values, fillvalue=math.nan)
    return np.array([mean_of_present(np.array(epoch)) for epoch in epochs])


def _rest(curves: Curves, coloured: Sequence[str]) -> str:
    rest = len(curves) - len(coloured)
    return f" Grey lines: {rest} further settings." if rest else ""
