"""What a study's trials cost: time, images, GPU hours, of each trial and of all."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from drcnn.engine.record import LATENCY
from studies.analysis.replicates import Replicate
from studies.report.table import Table, number

__all__ = ["cost_table"]


def cost_table(replicates: Sequence[Replicate]) -> Table:
    """What each trial took and what all took together; without the columns of which nothing is known."""
    costs = np.array([_cost(replicate) for replicate in replicates])
    total = np.where(np.isnan(costs).all(axis=0), math.nan, np.nansum(costs, axis=0))
    total[-1] = math.nan
    rows = [
        [
            replicate.trial.name,
            replicate.record.status,
            f"{replicate.record.epoch} of {replicate.trial.config.training.epochs}",
            *_cells(*cost),
        ]
        for replicate, cost in zip(replicates, costs.tolist(), strict=True)
    ]
    rows.append(["all", f"{len(rows)} trials", "", *_cells(*total.tolist())])
    caption = (
        "Time of training and evaluation, images seen in training and their rate; ms/image is inference."
    )
    columns = ("trial", "status", "epochs", "time", "images", "images/s", "GPU hours", "ms/image")
    return Table(caption, columns, rows, {"status"}, {len(rows) - 1}).without_empty_columns()


def _cost(replicate: Replicate) -> tuple[float, ...]:
    """Seconds, images, seconds of training alone, GPU hours, and latency; nan where nobody measured them."""
    history, record = replicate.record.history, replicate.record
    training = [epoch.get("perf/epoch_seconds", 0.0) for epoch in history]
    rates = [epoch.get("perf/images_per_s", 0.0) for epoch in history]
    images = sum(rate * seconds for rate, seconds in zip(rates, training, strict=True))
    seconds = record.seconds
    if seconds is None:
        seconds = sum(training) + sum(epoch.get("perf/eval_seconds", 0.0) for epoch in history)
    gpu_hours = seconds / 3600 * record.metric("perf/gpus")
    return seconds, images, sum(training), gpu_hours, record.metric(LATENCY)


def _cells(seconds: float, images: float, training: float, gpu_hours: float, latency: float) -> list[str]:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    time = f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
    rate = images / training if training else math.nan
    return [time, number(images, 0), number(rate), number(gpu_hours, 2), number(latency)]
