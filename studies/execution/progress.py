"""The live table of a running study; plain lines where nobody watches a terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from studies.definition.plan import Trial

__all__ = ["Progress", "percent"]


def percent(metrics: Mapping[str, float], key: str) -> str:
    """An AP in the paper's scale (56.6); a dash where it is missing."""
    value = metrics.get(key, math.nan)
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


@dataclass
class _Row:
    trial: Trial
    status: str
    metrics: dict[str, float]
    since: float = 0.0
    since_epoch: float = 0.0


class Progress:
    """One row a trial, in a table that redraws itself, or one line an epoch.

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

    def show(self, trial: Trial, status: str, metrics: Mapping[str, float], why: str = "") -> None:
        """A trial changed: it began, ended an epoch, or ended."""
        now = time.monotonic()
        row = self._rows.get(trial.id)
        if row is None or (status == "running" and row.status != "running"):
            row = _Row(trial, status, dict(metrics), since=now, since_epoch=metrics.get("epoch", 0))
            self._rows[trial.id] = row
        row.status, row.metrics = status, dict(metrics)
        if self._live is None:
            self._console.print(self._line(row, why), highlight=False, soft_wrap=True)

    def _line(self, row: _Row, why: str) -> str:
        known = row.metrics
        figures = " ".join(f"{key}={percent(known, f'val/{key}')}" for key in ("AP", "AP50", "AP90"))
        epoch = f"{int(known.get('epoch', 0))}/{row.trial.config.training.epochs}"
        speed = f" {_speed(known)} img/s, {self._left(row)} left" if row.status == "running" and known else ""
        return f"{row.trial.name}: {row.status}, epoch {epoch} {figures}{speed}{': ' if why else ''}{why}"

    def _table(self) -> Table:
        done = sum(row.status not in {"waiting", "running"} for row in self._rows.values())
        table = Table(title=f"{done} of {self._expected} trials ended", title_justify="left")
        table.add_column("trial", no_wrap=True)
        for heading in ("status", "epoch", "AP", "AP50", "AP90", "img/s", "left"):
            table.add_column(heading, justify="right")
        for row in self._rows.values():
            known = row.metrics
            table.add_row(
                row.trial.name,
                row.status,
                f"{int(known.get('epoch', 0))}/{row.trial.config.training.epochs}",
                *(percent(known, f"val/{key}") for key in ("AP", "AP50", "AP90")),
                _speed(known),
                self._left(row),
            )
        return table

    def _left(self, row: _Row) -> str:
        """Time left at the pace of this launch, known after its first epoch."""
        epoch = row.metrics.get("epoch", 0)
        if row.status != "running" or epoch <= row.since_epoch:
            return "–"
        pace = (time.monotonic() - row.since) / (epoch - row.since_epoch)
        seconds = round(pace * (row.trial.config.training.epochs - epoch))
        return f"{seconds // 60}:{seconds % 60:02d}"


def _speed(metrics: Mapping[str, float]) -> str:
    value = metrics.get("perf/images_per_s", math.nan)
    return "–" if math.isnan(value) else f"{value:.1f}"
