"""What a trial's folder says about it: the only record that resuming reads.

Ray's own state is never read again: what is on disk here says which trials are finished, and ``fit``
continues the others from their last epoch.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from safetensors import safe_open

from drcnn.files import write_text

__all__ = ["LATENCY", "VERDICTS", "Outcome", "clear_verdict", "outcome", "write_latency", "write_verdict"]

# A figure beside those of an epoch: the time of inference, where a study asked for it.
LATENCY = "perf/ms_per_image"
# Files that say how a trial ended.
VERDICTS = ("result.json", "error.json")

Status = Literal["finished", "pruned", "failed", "unfinished"]


@dataclass(frozen=True)
class Outcome:
    """What a trial's folder says about it."""

    status: Status
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float | None = None
    error: str | None = None
    latency: float | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """The figures of the last epoch; empty before the first."""
        if not self.history:
            return {}
        return self.history[-1] | ({} if self.latency is None else {LATENCY: self.latency})

    @property
    def done(self) -> bool:
        """Nothing is left to train."""
        return self.status in {"finished", "pruned"}


def outcome(folder: Path) -> Outcome:
    """Read what a trial's folder says; a missing or empty folder is a trial not yet begun."""
    result = _read(folder / "result.json")
    if result is not None:
        timed = _read(folder / "latency.json") or {}
        seconds = result.get("seconds")
        return Outcome(result["status"], result.get("history", []), seconds, latency=timed.get(LATENCY))
    history = _history(folder / "last.safetensors")
    error = _read(folder / "error.json")
    if error is not None:
        return Outcome("failed", history, error=error["message"])
    return Outcome("unfinished", history)


def write_verdict(
    folder: Path, status: Literal["pruned", "failed"], message: str = "", trace: str = ""
) -> None:
    """Record why a trial that ``fit`` did not finish will not go on.

    A trial that finished meanwhile stays finished; the first of several errors stays.
    """
    before = outcome(folder)
    if before.done or before.status == status:
        return
    folder.mkdir(parents=True, exist_ok=True)
    if status == "failed":
        write_text(
            folder / "error.json",
            json.dumps(
                {"message": " ".join(message.split()), "traceback": trace, "host": socket.gethostname()}
            ),
        )
        return
    last = before.metrics
    record = {"status": status, "epoch": last.get("epoch", 0), "metrics": last, "history": before.history}
    write_text(folder / "result.json", json.dumps(record))


def write_latency(folder: Path, milliseconds: float, device: str) -> None:
    """Record how long a finished trial's detector takes for an image, and on what."""
    write_text(folder / "latency.json", json.dumps({LATENCY: milliseconds, "device": device}))


def clear_verdict(folder: Path) -> None:
    """Forget that a trial failed or was cut, so that it goes on from its last epoch."""
    (folder / "error.json").unlink(missing_ok=True)
    if outcome(folder).status == "pruned":
        (folder / "result.json").unlink()


def _history(checkpoint: Path) -> list[dict[str, float]]:
    """The epochs in a checkpoint's header: read here without torch, which the driver has no other use for."""
    if not checkpoint.exists():
        return []
    with safe_open(checkpoint, "np") as file:
        history: list[dict[str, float]] = json.loads(file.metadata()["state"])["history"]
    return history


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    assert isinstance(record, dict), f"{path} holds no JSON object"
    return record
