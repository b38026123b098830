"""The charts of a search: its history, its settings as parallel coordinates, importances, and a front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure

from studies.analysis.replicates import Replicate
from studies.definition.labels import parameter_name, value_text
from studies.report.charts import Theme, draw
from studies.report.document import Picture

__all__ = ["front_chart", "history", "importance_chart", "parallel"]


def history(runs: Sequence[Replicate], key: str) -> Picture:
    """Each trial's last figure in the order of the search, and the best so far."""
    values = [_value(run, key) for run in runs]
    done = [value if run.is_finished else math.nan for run, value in zip(runs, values, strict=True)]
    best = np.fmax.accumulate(np.array(done))
    places = np.arange(1, len(runs) + 1)
    metric = key.removeprefix("val/")
    cut = [
        (place, value) for place, value, run in zip(places, values, runs, strict=True) if not run.is_finished
    ]

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        axes.plot(places, best, color=theme.colors[1], drawstyle="steps-post", label="best so far", zorder=2)
        axes.plot(places, done, "o", color=theme.colors[0], label="finished", zorder=3)
        if cut:
            axes.plot(*zip(*cut, strict=True), "x", color=theme.colors[6], label="cut or not finished")
        axes.set_xlabel("trial, in the order of the search")
        axes.set_ylabel(f"{metric} × 100")
        axes.grid(axis="y", color=theme.faint, linewidth=0.5, alpha=0.6)
        axes.set_xticks(places[:: max(1, len(places) // 12)])
        figure.legend(
            *axes.get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False, fontsize=9
        )

    finished = [value for value in done if not math.isnan(value)]
    alt = f"Scatter plot of {metric} of {len(runs)} trials in the order of the search."
    if finished:
        alt += f" The best, {max(finished):.1f}, is trial {done.index(max(finished)) + 1}."
    caption = f"How the search went: {metric} × 100 after each trial's last epoch, and the best so far."
    return draw("search_history.png", alt, caption, 3.4, paint)


def parallel(runs: Sequence[Replicate], keys: Sequence[str], metric_key: str) -> Picture:
    """One line a finished trial, through its value of each setting, coloured by its figure."""
    found = [run for run in runs if run.is_finished and not math.isnan(_value(run, metric_key))]
    found.sort(key=lambda run: _value(run, metric_key))
    metric = metric_key.removeprefix("val/")
    columns = [_Axis([run.trial.varied[key] for run in found]) for key in keys]
    figures = np.array([_value(run, metric_key) for run in found])
    low, high = float(figures.min()), float(figures.max())
    shades = (figures - low) / (high - low) if high > low else np.ones(len(figures))
    heights = np.stack([*(column.heights for column in columns), shades], axis=1)

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        colors = _scale(theme)
        for line, shade in zip(heights, shades, strict=True):
            axes.plot(line, color=colors(shade), linewidth=1 + 1.5 * shade, zorder=2 + shade)
        labels = [*map(parameter_name, keys), metric]
        axes.set_xticks(range(len(labels)), labels)
        axes.set_yticks([])
        axes.set_ylim(-0.06, 1.06)
        for place, column in enumerate([*columns, _Axis([low, high], decimals=1)]):
            axes.axvline(place, color=theme.ink, linewidth=0.8, zorder=1)
            for height, text in column.ticks:
                axes.annotate(
                    text,
                    (place, height),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                    color=theme.ink,
                    bbox={"facecolor": theme.page, "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
                    zorder=5,
                )
        axes.set_xlim(-0.1, len(labels) - 0.6)
        axes.spines["left"].set_visible(False)

    best = found[-1]
    settings = ", ".join(f"{parameter_name(key)} {value_text(best.trial.varied[key])}" for key in keys)
    alt = (
        f"Parallel coordinates of {len(found)} finished trials over {', '.join(map(parameter_name, keys))}; "
        f"{metric} from {low:.1f} to {high:.1f}. The best: {settings}."
    )
    caption = (
        "Each line is a finished trial: follow it through its settings to its "
        f"{metric} × 100 on the right. The thicker and the greener, the better."
    )
    return draw("search_parallel.png", alt, caption, 3.6, paint)


class _Axis:
    """Where the values of one setting lie between 0 and 1: numbers to scale, words evenly."""

    def __init__(self, values: Sequence[Any], decimals: int | None = None) -> None:
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            places = [float(value) for value in values]
            known = sorted(set(places))
            words = [
                f"{value:.{decimals}f}" if decimals is not None else value_text(value) for value in known
            ]
        else:
            texts = [value_text(value) for value in values]
            words = sorted(set(texts))
            known = [float(number) for number in range(len(words))]
            places = [float(words.index(text)) for text in texts]
        low, span = known[0], (known[-1] - known[0]) or 1.0
        self.heights = (np.array(places) - low) / span
        marks = list(zip(((value - low) / span for value in known), words, strict=True))
        # A dozen labels fit; of more, the ends say enough.
        self.ticks = marks if len(marks) <= 12 else [marks[0], marks[-1]]


def importance_chart(shares: Mapping[str, float], trials: int) -> Picture:
    """Bars, the largest on top."""
    # Bars are drawn from below.
    listed = list(shares.items())[::-1]
    names = [parameter_name(key) for key, _ in listed]
    values = [100 * share for _, share in listed]

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        bars = axes.barh(names, values, color=theme.colors[0], height=0.55)
        axes.bar_label(bars, fmt="%.0f %%", padding=3, color=theme.ink, fontsize=9)
        axes.set_xlim(0, max(values) * 1.18)
        axes.set_xlabel("share of the variation explained")

    told = ", ".join(f"{parameter_name(key)} {100 * share:.0f} %" for key, share in shares.items())
    caption = (
        f"Importance of the settings (Optuna's fANOVA) from {trials} finished trials; "
        "with few dozens of trials, a hint and no measurement."
    )
    return draw(
        "search_importance.png",
        f"Bar chart of importances: {told}.",
        caption,
        1.1 + 0.4 * len(names),
        paint,
    )


def front_chart(
    runs: Sequence[Replicate], kept: Sequence[Replicate], metric_key: str, cost_key: str
) -> Picture:
    """All finished trials by cost and figure; those on the front are joined."""
    metric = metric_key.removeprefix("val/")

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        finished = [run for run in runs if run.is_finished]
        axes.plot(*_points(finished, metric_key, cost_key), "o", color=theme.faint, label="finished")
        axes.plot(
            *_points(kept, metric_key, cost_key),
            "o-",
            color=theme.colors[0],
            drawstyle="steps-post",
            label="front: none is both faster and better",
        )
        axes.set_xlabel("inference, ms an image")
        axes.set_ylabel(f"{metric} × 100")
        axes.grid(color=theme.faint, linewidth=0.5, alpha=0.6)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", frameon=False, fontsize=9)

    (fast, low), (slow, high) = (
        [column[0] for column in _points([end], metric_key, cost_key)] for end in (kept[0], kept[-1])
    )
    alt = (
        f"Scatter plot of {metric} over inference time; the front has {len(kept)} trials, "
        f"from {low:.1f} at {fast:.1f} ms to {high:.1f} at {slow:.1f} ms an image."
    )
    caption = f"{metric} × 100 against the time of inference. Blue: the front."
    return draw("front.png", alt, caption, 3.8, paint)


def _points(runs: Sequence[Replicate], metric_key: str, cost_key: str) -> tuple[list[float], list[float]]:
    costs = [run.record.metrics.get(cost_key, math.nan) for run in runs]
    return costs, [_value(run, metric_key) for run in runs]


def _value(run: Replicate, key: str) -> float:
    return 100 * run.record.metrics.get(key, math.nan)


def _scale(theme: Theme) -> Colormap:
    start, end = theme.scale
    shades = colormaps["viridis"](np.linspace(start, end, 64))
    return LinearSegmentedColormap.from_list("part of viridis", list(shades))
