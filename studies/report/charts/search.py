"""The charts of a search: its history, parallel coordinates, importances, and its Pareto front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from drcnn.report.blocks import Picture
from drcnn.report.chart_style import Theme, draw, draw_legend, in_points
from studies.analysis.replicates import Replicate
from studies.definition.labels import parameter_name, value_text
from studies.definition.metrics import SPLITS, points

__all__ = ["front_chart", "history_chart", "importance_chart", "parallel_chart"]

MAX_TICKS = 12

Ticks = list[tuple[float, str]]  # height from 0 to 1, text


def history_chart(replicates: Sequence[Replicate], key: str) -> Picture:
    """Draw each trial's last value of a metric in the order of the search, and the best so far."""
    numbers = np.arange(1, len(replicates) + 1)
    values = np.array([replicate.record.metric(key) for replicate in replicates])
    is_finished = np.array([replicate.is_finished for replicate in replicates])
    finished = np.where(is_finished, values, math.nan)
    split, _, metric = key.rpartition("/")

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        best = np.fmax.accumulate(finished)
        axes.plot(numbers, best, color="C1", drawstyle="steps-post", label="best so far", zorder=2)
        axes.plot(numbers, finished, "o", color="C0", label="finished", zorder=3)
        if not is_finished.all():
            others = ~is_finished
            axes.plot(numbers[others], values[others], "x", color="C6", label="pruned or not finished")
        axes.set_xlabel("trial")
        axes.set_ylabel(f"{metric} × 100")
        axes.set_xticks(numbers[:: max(1, len(numbers) // MAX_TICKS)])
        axes.grid(axis="y")
        in_points(axes.yaxis)
        draw_legend(figure, axes, columns=3)

    alt = f"Scatter plot of {metric} of {len(replicates)} trials in the order of the search."
    if not np.isnan(finished).all():
        best = int(np.nanargmax(finished))
        alt += f" The best, {points(finished[best])}, is trial {best + 1}."
    caption = (
        f"How the search went: {metric} × 100 on the {SPLITS[split]} after each trial's last epoch, and the "
        "best so far."
    )
    return draw("search_history.png", alt, caption, 3.4, paint)


def parallel_chart(replicates: Sequence[Replicate], keys: Sequence[str], metric_key: str) -> Picture:
    """Draw one line for each finished trial through its values of the parameters, coloured by its metric.

    Args:
        replicates: the trials of the search; those without the metric are left out.
        keys: the dotted keys of the parameters.
        metric_key: such as 'val/AP'.
    """
    scored = [replicate for replicate in replicates if replicate.is_finished]
    scored = [replicate for replicate in scored if not math.isnan(replicate.record.metric(metric_key))]
    scored.sort(key=lambda replicate: replicate.record.metric(metric_key))
    values = np.array([replicate.record.metric(metric_key) for replicate in scored])
    low, high = float(values[0]), float(values[-1])
    shades = (values - low) / (high - low) if high > low else np.ones(len(values))
    columns = [_column([replicate.trial.varied[key] for replicate in scored]) for key in keys]
    columns.append(
        (shades, [(0.0, points(low)), (1.0, points(high))] if high > low else [(1.0, points(high))])
    )
    metric, names = metric_key.rpartition("/")[2], [parameter_name(key) for key in keys]

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        colors = colormaps["viridis"](np.interp(shades, (0, 1), theme.scale))
        lines = np.transpose([heights for heights, _ in columns])
        for line, shade, color in zip(lines, shades, colors, strict=True):
            axes.plot(line, color=color, linewidth=1 + 1.5 * shade, zorder=2 + shade)
        axes.set_xticks(range(len(columns)), [*names, metric])
        axes.set_yticks([])
        axes.set_xlim(-0.1, len(columns) - 0.6)
        axes.set_ylim(-0.06, 1.06)
        axes.spines["left"].set_visible(False)
        for place, (_, ticks) in enumerate(columns):
            _draw_ticks(axes, theme, place, ticks)

    best = scored[-1].trial.varied
    settings = ", ".join(f"{name} {value_text(best[key])}" for name, key in zip(names, keys, strict=True))
    alt = (
        f"Parallel coordinates of {len(scored)} finished trials over {', '.join(names)}; "
        f"{metric} from {points(low)} to {points(high)}. The best: {settings}."
    )
    caption = (
        "Each line is a finished trial: follow it through its settings to its "
        f"{metric} × 100 on the right. The thicker and the greener, the better."
    )
    return draw("search_parallel.png", alt, caption, 3.6, paint)


def _column(values: Sequence[Any]) -> tuple[NDArray[np.float64], Ticks]:
    """The height of each value from 0 to 1, numbers to scale and words evenly spaced; and the ticks."""
    texts = [value_text(value) for value in values]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        places = np.array(values, dtype=float)
    else:
        places = np.unique(texts, return_inverse=True)[1].astype(float)
    heights = (places - places.min()) / (np.ptp(places) or 1.0)
    ticks = sorted(dict(zip(heights.tolist(), texts, strict=True)).items())
    return heights, ticks if len(ticks) <= MAX_TICKS else [ticks[0], ticks[-1]]


def _draw_ticks(axes: Axes, theme: Theme, place: int, ticks: Ticks) -> None:
    """Draw the axis of one column, its ticks over the lines."""
    axes.axvline(place, color=theme.ink, linewidth=0.8, zorder=1)
    for height, text in ticks:
        axes.annotate(
            text,
            (place, height),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            bbox={"facecolor": theme.page, "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
            zorder=5,
        )


def importance_chart(importances: Mapping[str, float], trials: int) -> Picture:
    """Draw a bar for the importance of each parameter, the largest on top.

    Args:
        importances: by dotted key, largest first; see ``studies.analysis.search_summary``.
        trials: how many finished.
    """
    names = [parameter_name(key) for key in importances]

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        bars = axes.barh(names, list(importances.values()), height=0.55)
        axes.bar_label(bars, fmt="{:.0%}", padding=3, fontsize=9)
        axes.invert_yaxis()
        axes.set_xlim(0, max(importances.values()) * 1.18)
        axes.set_xlabel("share of the variation explained, %")
        in_points(axes.xaxis)

    shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(names, importances.values(), strict=True))
    caption = (
        f"Importance of the settings (Optuna's fANOVA) from {trials} finished trials; "
        "from a few dozen trials it is a hint, not a measurement."
    )
    alt = f"Bar chart of importances: {shares}."
    return draw("search_importance.png", alt, caption, 1.1 + 0.4 * len(names), paint)


def front_chart(
    replicates: Sequence[Replicate], front: Sequence[Replicate], metric_key: str, cost_key: str
) -> Picture:
    """Draw all finished trials by cost and metric, and join those of the Pareto front.

    Args:
        replicates: the trials of the search.
        front: see ``studies.analysis.search_summary.pareto_front``; at least one.
        metric_key: such as 'val/AP'.
        cost_key: of milliseconds an image at inference.
    """
    metric = metric_key.rpartition("/")[2]
    finished = [replicate for replicate in replicates if replicate.is_finished]

    def coordinates(trials: Sequence[Replicate]) -> tuple[list[float], list[float]]:
        records = [replicate.record for replicate in trials]
        return [record.metric(cost_key) for record in records], [
            record.metric(metric_key) for record in records
        ]

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        axes.plot(*coordinates(finished), "o", color=theme.faint, label="finished")
        label = "Pareto front: no trial is both faster and better"
        axes.plot(*coordinates(front), "o-", color="C0", drawstyle="steps-post", label=label)
        axes.set_xlabel("inference, ms an image")
        axes.set_ylabel(f"{metric} × 100")
        axes.grid()
        in_points(axes.yaxis)
        draw_legend(figure, axes)

    costs, values = coordinates(front)
    alt = (
        f"Scatter plot of {metric} over inference time; the front has {len(front)} trials, from "
        f"{points(values[0])} at {costs[0]:.1f} ms to {points(values[-1])} at {costs[-1]:.1f} ms an image."
    )
    caption = f"{metric} × 100 against the time of inference. Blue: the Pareto front."
    return draw("front.png", alt, caption, 3.8, paint)
