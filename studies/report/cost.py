"""The report's part on cost: time, images, GPU hours, of each trial and of all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from drcnn.engine.record import LATENCY
from studies.analysis.replicates import Replicate
from studies.report.document import Block, Bullets, Table, Text, literal

__all__ = ["cost"]


@dataclass(frozen=True)
class _Cost:
    """Of one trial or several; ``gpu_hours`` and ``latency`` are nan where nobody measured them."""

    seconds: float
    images: float
    training: float  # seconds without evaluation
    gpu_hours: float
    latency: float = math.nan

    def cells(self) -> tuple[str, ...]:
        """For the table."""
        rate = self.images / self.training if self.training else math.nan
        return (
            _time(self.seconds),
            f"{self.images:,.0f}",
            _number(rate),
            _number(self.gpu_hours, 2),
            _number(self.latency),
        )


def cost(runs: Sequence[Replicate], trainings: Sequence[Replicate]) -> list[Block]:
    """What the trials took; ``trainings`` made detectors that some of the runs evaluate."""
    every = [*trainings, *runs]
    costs = [_cost(run) for run in every]
    total = _Cost(
        sum(each.seconds for each in costs),
        sum(each.images for each in costs),
        sum(each.training for each in costs),
        _sum_of_known(each.gpu_hours for each in costs),
    )
    rows = [
        (run.trial.name, _status(run), _epochs(run), *each.cells())
        for run, each in zip(every, costs, strict=True)
    ]
    rows.append(("all", f"{len(every)} trials", "", *total.cells()))
    columns = ("trial", "status", "epochs", "time", "images", "images/s", "GPU hours", "ms/image")
    # No GPUs, or no study that measures inference: a column of dashes would say nothing.
    kept = [at for at, name in enumerate(columns) if any(row[at] != "–" for row in rows[:-1])]
    said = (
        "The times of trials that ran side by side add up: the whole took less by the clock. A trial that "
        "another study of the same output folder trained is counted here too."
    )
    if math.isnan(total.gpu_hours):
        said += " GPU hours were not recorded."
    table = Table(
        "Time of training and evaluation, images seen in training, and their rate; ms/image is inference.",
        tuple(columns[at] for at in kept),
        tuple(tuple(row[at] for at in kept) for row in rows),
        words=("status",),
        strong=frozenset({len(rows) - 1}),
    )
    blocks: list[Block] = [Text(said), table]
    failed = [f"{run.trial.name} failed: {literal(run.record.error)}" for run in every if run.record.error]
    return [*blocks, Bullets(tuple(failed))] if failed else blocks


def _cost(run: Replicate) -> _Cost:
    history = run.record.history
    training = sum(epoch.get("perf/epoch_seconds", 0.0) for epoch in history)
    evaluating = sum(epoch.get("perf/eval_seconds", 0.0) for epoch in history)
    images = sum(
        epoch.get("perf/images_per_s", 0.0) * epoch.get("perf/epoch_seconds", 0.0) for epoch in history
    )
    seconds = training + evaluating if run.record.seconds is None else run.record.seconds
    metrics = run.record.metrics
    gpu_hours = seconds / 3600 * metrics.get("perf/gpus", math.nan)
    return _Cost(seconds, images, training, gpu_hours, metrics.get(LATENCY, math.nan))


def _epochs(run: Replicate) -> str:
    return f"{int(run.record.metrics.get('epoch', 0))} of {run.trial.config.training.epochs}"


def _status(run: Replicate) -> str:
    return {"pruned": "cut early", "pending": "not finished"}.get(run.record.status, run.record.status)


def _sum_of_known(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) if known else math.nan


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _number(value: float, decimals: int = 1) -> str:
    return "–" if math.isnan(value) else f"{value:.{decimals}f}"
