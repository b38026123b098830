"""What a driver spends on its trials: a tracker that writes to MLflow as any does, and looks at the clock."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from studies.definition.plan import Plan, Trial
from studies.record.tracking.runs import Tracker

__all__ = ["Meter", "memory_mib", "most_memory_mib"]


@dataclass(frozen=True)
class _End:
    """A trial ended: when, and what the driver had used by then (seconds, MiB)."""

    time: float
    cpu: float
    memory: int


class Meter(Tracker):
    """Writes to MLflow as any study does, and looks at the clock.

    Args:
        uri: of MLflow's store.
        plan: the study.
    """

    def __init__(self, uri: str, plan: Plan) -> None:
        artifacts = None if uri.startswith("http") else f"file://{plan.output / 'artifacts'}"
        super().__init__(uri, artifacts, plan.name, plan.output)
        self.calls: dict[str, list[float]] = {"start": [], "epoch": [], "end": []}
        self.begins: list[float] = []
        self.ends: list[_End] = []

    def start(self, trial: Trial) -> None:  # noqa: D102
        self.begins.append(time.monotonic())
        self._timed("start", lambda: super(Meter, self).start(trial))

    def log(self, trial: Trial, metrics: Mapping[str, float]) -> None:  # noqa: D102
        self._timed("epoch", lambda: super(Meter, self).log(trial, metrics))

    def finish(self, trial: Trial) -> None:  # noqa: D102
        self._timed("end", lambda: super(Meter, self).finish(trial))
        self.ends.append(_End(time.monotonic(), time.process_time(), memory_mib()))

    def pace(self, begin: float, end: float) -> tuple[float, float]:
        """Milliseconds a trial between two parts of all ends: by the clock, and of the processor."""
        first, last = (int(part * (len(self.ends) - 1)) for part in (begin, end))
        a, b, trials = self.ends[first], self.ends[last], last - first
        return 1000 * (b.time - a.time) / trials, 1000 * (b.cpu - a.cpu) / trials

    def _timed(self, name: str, call: Callable[[], None]) -> None:
        began = time.monotonic()
        call()
        self.calls[name].append(time.monotonic() - began)


def memory_mib() -> int:
    """MiB of this process that are in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 20


def most_memory_mib() -> int:
    """MiB that this process had in memory, at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
