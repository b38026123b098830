"""The live table of a running study; plain lines where nobody watches a terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import rich.table
from rich.console import Console
from rich.live import Live

from drcnn.engine.record import Status
from drcnn.plain_text import printable
from drcnn.report.blocks import Table
from studies.definition.metrics import MISSING, key_of, points
from studies.definition.plan import Trial
from studies.worker.step_note import epochs_begun

__all__ = ["Progress"]

SHOWN = ("AP", "AP50", "AP90")


@dataclass
class _Row:
    """A trial, and since when (by the clock, and in epochs) this launch runs it."""

    trial: Trial
    status: Status
    metrics: dict[str, float]
    since: float
    since_epoch: float

    @property
    def epoch(self) -> float:
        """Epochs that are done, with a part of the one that runs."""
        finished = self.metrics.get("epoch", 0.0)
        return epochs_begun(self.trial.folder, finished) if self.status is Status.RUNNING else finished

    @property
    def epochs(self) -> str:
        done = int(self.epoch) if self.epoch == int(self.epoch) else f"{self.epoch:.1f}"
        return f"{done}/{self.trial.config.training.epochs}"

    @property
    def values(self) -> list[str]:
        splits = (self.trial.data.judged, "val")  # until it is judged, what it is chosen by
        keys = [[key_of(name, split) for split in splits] for name in SHOWN]
        found = [next((self.metrics[key] for key in both if key in self.metrics), math.nan) for both in keys]
        return list(map(points, found))

    @property
    def speed(self) -> str:
        value = self.metrics.get("perf/images_per_s", math.nan)
        return MISSING if math.isnan(value) else f"{value:.1f}"

    @property
    def time_left(self) -> str:
        """At the pace of this launch."""
        epoch = self.epoch
        if self.status is not Status.RUNNING or epoch <= self.since_epoch:
            return MISSING
        pace = (time.monotonic() - self.since) / (epoch - self.since_epoch)
        seconds = round(pace * (self.trial.config.training.epochs - epoch))
        return f"{seconds // 60}:{seconds % 60:02d}"


class Progress:
    """One row a trial in a table that redraws itself, or one line an epoch.

    Args:
        console: where to draw.
        expected: how many trials there will be in all.
    """

    def __init__(self, console: Console, expected: int) -> None:
        self._console = console
        self._expected = expected
        self._rows: dict[str, _Row] = {}
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(get_renderable=self._table, console=console, refresh_per_second=2)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, trial: Trial, status: Status, metrics: Mapping[str, float], why: str = "") -> None:
        """A trial changed: it began, ended an epoch, or ended."""
        row = self._rows.get(trial.id)
        if row is None or (status is Status.RUNNING and row.status is not Status.RUNNING):
            row = _Row(trial, status, dict(metrics), time.monotonic(), metrics.get("epoch", 0))
            self._rows[trial.id] = row
        row.status, row.metrics = status, dict(metrics)
        if self._live is None:
            self.say(_line(row, why))

    def say(self, line: str) -> None:
        """Print a line, above the table."""
        # As on a full disk: what is shown is no reason to end what is trained.
        with suppress(OSError):
            self._console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    def _table(self) -> rich.table.Table:
        ended = sum(row.status.is_terminal for row in self._rows.values())
        rows = [
            (row.trial.name, row.status, row.epochs, row.time_left, *row.values, row.speed)
            for row in self._rows.values()
        ]
        columns = ("trial", "status", "epoch", "left", *SHOWN, "img/s")
        table = Table(f"{ended} of {self._expected} trials ended.", columns, rows, words=("status",))
        return table.fitted(self._console.width).to_rich()


def _line(row: _Row, why: str) -> str:
    values = " ".join(f"{name}={value}" for name, value in zip(SHOWN, row.values, strict=True))
    is_under_way = row.status is Status.RUNNING and row.metrics
    speed = f" {row.speed} img/s, {row.time_left} left" if is_under_way else ""
    why = f": {printable(why)}" if why else ""
    return f"{row.trial.name}: {row.status}, epoch {row.epochs} {values}{speed}{why}"
