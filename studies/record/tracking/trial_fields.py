"""What MLflow's pages show of a trial: its settings as parameters, its figures as metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from typing import Any

from mlflow.entities import Metric, Param

from drcnn.engine.record import read_record
from studies.definition.labels import run_name
from studies.definition.metrics import key_of
from studies.definition.plan import Trial

__all__ = ["best_metrics", "distinct_name", "epoch_metrics", "now", "params"]

MAX_METRICS = 40
SHOWN_LETTERS = 20
BEST_METRICS = ("AP", "AP50", "AP90")


def params(trial: Trial) -> list[Param]:
    """Every setting under its short name, which the compare page shows without any configuration."""
    settings: dict[str, Any] = {}
    for key, value in trial.config.flat():
        # Two sections have an ``amp``: the first keeps the short name.
        short = key.rpartition(".")[2]
        settings[key if short in settings else short] = value
    return [
        Param(key, f"{value:.6g}" if isinstance(value, float) else str(value))
        for key, value in settings.items()
    ]


def distinct_name(trial: Trial, others: Collection[str]) -> str:
    """A run's name that differs from others' in the letters that MLflow's pages show."""
    name = run_name(trial.varied, trial.config.seed)
    is_taken = name[:SHOWN_LETTERS] in {other[:SHOWN_LETTERS] for other in others}
    return f"{len(others) + 1} {name}" if is_taken else name


def epoch_metrics(metrics: Mapping[str, float]) -> list[Metric]:
    """The figures of an epoch; its number is their step."""
    usable = {key: value for key, value in metrics.items() if key != "epoch" and not math.isnan(value)}
    # The compare page plots the metric that was stored first: AP, not a loss.
    keys = sorted(usable, key=lambda key: not key.startswith(("val/", "test/")))[:MAX_METRICS]
    time_now, step = now(), int(metrics["epoch"])
    return [Metric(key, usable[key], time_now, step) for key in keys]


def best_metrics(best: Trial) -> list[Metric]:
    """The figures of the best trial, as its launch's run has them."""
    record = read_record(best.folder)
    figures = {name: record.metric(key_of(name, best.data.judged)) for name in BEST_METRICS}
    return [Metric(f"best/{name}", value, now(), 0) for name, value in figures.items()]


def now() -> int:
    """Milliseconds, as MLflow counts time."""
    return int(time.time() * 1000)
