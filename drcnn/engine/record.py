"""What a trial's folder says about it: how it ended, its figures epoch by epoch, its error.

This is the only record that resuming reads, and the only place that reads or writes ``result.json`` (the
trial ended), ``error.json`` (it failed) and ``latency.json`` (its inference was timed). A folder without any
of these is a trial that is still to be trained, from the last epoch in ``last.safetensors`` on. Each carries
a checksum: one that is damaged, or holds values of other types, is said and taken as missing, so that what it
told is found out again.
"""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from drcnn.engine.checkpoint_header import newest_header
from drcnn.plain_text import printable, shown
from drcnn.sealed import DamagedFileError, read_sealed, write_sealed

__all__ = [
    "LATENCY",
    "OUTCOME_FILES",
    "Status",
    "TrialRecord",
    "read_record",
    "reopen",
    "write_failed",
    "write_finished",
    "write_latency",
    "write_pruned",
]

logger = logging.getLogger(__name__)

# Milliseconds an image at inference; a figure beside those of an epoch where a study asked for it.
LATENCY = "perf/ms_per_image"
# The files that say how a trial ended.
OUTCOME_FILES = ("result.json", "error.json")


def _counted(metrics: dict[str, float]) -> dict[str, float]:
    if not math.isfinite(metrics.get("epoch", 0)):
        raise ValueError("an epoch has a number")
    return metrics


# Other people's: shown on terminals and pages.
Text = Annotated[str, AfterValidator(printable)]
History = list[Annotated[dict[str, float], AfterValidator(_counted)]]
HISTORY: TypeAdapter[History] = TypeAdapter(History, config=ConfigDict(strict=True))


class _File(BaseModel):
    """What a file of the record holds, as far as it is read; other keys are for people."""

    model_config = ConfigDict(strict=True, frozen=True)


class _Result(_File):
    status: str
    history: History = []
    per_class: dict[Text, float] = {}
    seconds: float | None = None
    made_by: dict[str, Text] = {}
    notes: list[Text] = []


class _Error(_File):
    message: Text


class _Latency(_File):
    milliseconds: float = Field(alias=LATENCY)


File = TypeVar("File", bound=_File)


class Status(StrEnum):
    """Where a trial stands. A folder never says RUNNING: whoever runs the trial knows that."""

    PENDING = "pending"
    RUNNING = "running"
    FINISHED = "finished"
    PRUNED = "pruned"
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        """Whether the trial has ended, one way or another."""
        return self in {Status.FINISHED, Status.PRUNED, Status.FAILED}


@dataclass(frozen=True)
class TrialRecord:
    """All that is known of a trial.

    Attributes:
        status: how it ended, or that it has not.
        history: the metrics of every finished epoch, first epoch first.
        per_class: AP of each class after the last of these.
        seconds: of training and evaluation; none if the trial did not finish.
        error: why it failed, in one line; none if it did not.
        latency: milliseconds an image at inference; none if nobody measured it.
        made_by: torch, device, workers and commit that made it, each by its name; empty if it did not finish.
        notes: lines on what a person may not expect of how it was made; empty if it did not finish.
    """

    status: Status
    history: Sequence[Mapping[str, float]] = ()
    per_class: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    error: str | None = None
    latency: float | None = None
    made_by: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def is_finished(self) -> bool:
        """Whether it was trained (or evaluated) to its end."""
        return self.status is Status.FINISHED

    @property
    def is_pruned(self) -> bool:
        """Whether a search stopped it early."""
        return self.status is Status.PRUNED

    @property
    def is_failed(self) -> bool:
        """Whether it ended with an error that would only repeat itself."""
        return self.status is Status.FAILED

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to train: it finished or was pruned."""
        return self.is_finished or self.is_pruned

    @property
    def is_terminal(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.status.is_terminal

    @property
    def epoch(self) -> int:
        """The last finished epoch, 1-based; 0 before the first."""
        return int(self.metrics.get("epoch", 0))

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the last finished epoch, with the latency; empty before the first."""
        if not self.history:
            return {}
        return {**self.history[-1], **({} if self.latency is None else {LATENCY: self.latency})}

    def metric(self, name: str) -> float:
        """A metric of the last epoch, such as ``test/AP``; nan where the trial has none."""
        return self.metrics.get(name, math.nan)


def read_record(folder: Path) -> TrialRecord:
    """Read a trial's folder; a missing or empty one is a trial that is still to be begun."""
    result = _read(folder / "result.json", _Result)
    if result is not None and result.status in (Status.FINISHED, Status.PRUNED):
        latency = _read(folder / "latency.json", _Latency)
        return TrialRecord(
            Status(result.status),
            result.history,
            result.per_class,
            result.seconds,
            latency=latency.milliseconds if latency else None,
            made_by=result.made_by,
            notes=result.notes,
        )
    history = _history_of_checkpoint(folder)
    error = _read(folder / "error.json", _Error)
    if error is not None:
        return TrialRecord(Status.FAILED, history, error=error.message)
    return TrialRecord(Status.PENDING, history)


def write_finished(
    folder: Path,
    history: Sequence[Mapping[str, float]],
    per_class: Mapping[str, float],
    seconds: float,
    made_by: Mapping[str, str],
    notes: Sequence[str] = (),
) -> None:
    """Mark a trial as finished; to be called when all its other files are written."""
    more = {"per_class": per_class, "seconds": seconds, "made_by": made_by, "notes": list(notes)}
    _write_result(folder, Status.FINISHED, history, **more)


def write_pruned(folder: Path) -> None:
    """Mark a trial as stopped early by its search, unless it has finished meanwhile."""
    record = read_record(folder)
    if not record.is_done:
        _write_result(folder, Status.PRUNED, record.history)


def write_failed(folder: Path, message: str, trace: str = "") -> None:
    """Mark a trial as failed, unless it has ended otherwise; of several errors the first is kept."""
    if read_record(folder).is_terminal:
        return
    folder.mkdir(parents=True, exist_ok=True)
    error = {"message": " ".join(message.split()), "traceback": trace, "host": socket.gethostname()}
    write_sealed(folder / "error.json", error)


def write_latency(folder: Path, milliseconds: float, device: str) -> None:
    """Record how long a finished trial's detector takes for an image, and on what device."""
    write_sealed(folder / "latency.json", {LATENCY: milliseconds, "device": device})


def reopen(folder: Path) -> None:
    """Forget that a trial failed or was pruned, so that it goes on from its last epoch."""
    if (folder / "error.json").is_file():
        (folder / "error.json").unlink()
    if read_record(folder).is_pruned:
        (folder / "result.json").unlink()


def _write_result(
    folder: Path, status: Status, history: Sequence[Mapping[str, float]], **more: object
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    last = history[-1] if history else {}
    result = {
        "status": status,
        "epoch": int(last.get("epoch", 0)),
        "metrics": last,
        "history": list(history),
        **more,
    }
    write_sealed(folder / "result.json", result)


def _history_of_checkpoint(folder: Path) -> History:
    header = newest_header(folder)
    try:
        return HISTORY.validate_python(header.state.get("history", []) if header else [])
    except ValidationError:
        return []  # who resumes from it is told that it is none of ours


def _read(path: Path, kind: type[File]) -> File | None:
    """Read a file of the record; none if it is missing, or damaged, which is said."""
    try:
        return kind.model_validate(read_sealed(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except DamagedFileError as error:
        _warn_once(f"{error}; taken as missing, to be made again")
    except ValidationError as error:
        first = error.errors()[0]
        key = first["loc"][0]
        fault = f"it has no {key}" if first["type"] == "missing" else f"its {key} is {shown(first['input'])}"
        _warn_once(f"{path} is damaged: {fault}; taken as missing, to be made again")
    return None


@cache
def _warn_once(message: str) -> None:
    """Records are read over and over."""
    logger.warning(message)
