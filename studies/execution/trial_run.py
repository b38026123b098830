"""What runs on Ray: one trial, in Tune's own actor or in a group of Ray Train workers (see ``group``).

A trial trains, or evaluates what another has trained. Both ways of training call the same ``fit`` on the
trial's folder, so a trial gives the same figures either way, up to the order of floating-point sums, and may
be continued either way. Nothing but metrics goes through Ray: an epoch's checkpoint is in the folder when the
epoch is reported.
"""

from __future__ import annotations

import fcntl
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune

from drcnn.config import ConfigError
from drcnn.data.annotations import DataError
from drcnn.engine.record import read_record, write_failed
from studies.definition.plan import Trial
from studies.transfer.supplies import Supplies

__all__ = ["only_one", "pushing", "train_here", "verdict_on_failure", "work"]

Report = Callable[[dict[str, float]], None]


def train_here(config: Mapping[str, Any]) -> None:
    """Tune function of a trial with one worker: trains or evaluates in the trial's actor."""
    trial: Trial = config["trial"]
    supplies: Supplies = config["supplies"]
    with only_one(trial.folder):
        with verdict_on_failure(trial, supplies):
            supplies.bring(trial)
            work(trial, config["options"], pushing(trial, supplies, tune.report))
        if config["timed"] and read_record(trial.folder).is_finished:
            with verdict_on_failure(trial, supplies):
                _time(trial, config["options"])
        supplies.storage.upload(trial.folder)


def work(trial: Trial, options: Mapping[str, Any], report: Report) -> None:
    """Train or evaluate a trial, unless its folder says that nothing is left to do."""
    from drcnn.engine.train import RunOptions, fit

    # Finished meanwhile by another study, or failed in a way that would only repeat itself.
    found = read_record(trial.folder)
    if found.is_finished:
        report(found.metrics)
    if found.status in {"finished", "failed"}:
        return
    if trial.model is None:
        fit(trial.config, trial.data, trial.folder, report=report, options=RunOptions(**options))
        return
    from studies.execution.inference import evaluate

    trained = read_record(trial.model.folder)
    if not trained.is_finished:
        why = trained.error or trained.status
        write_failed(trial.folder, f"the detector was not trained ({trial.model.name}: {why})")
        return
    report(evaluate(trial, RunOptions(**options)))


def _time(trial: Trial, options: Mapping[str, Any]) -> None:
    from drcnn.engine.train import RunOptions
    from studies.execution.inference import measure_latency

    measure_latency(trial, RunOptions(**options))


def pushing(trial: Trial, supplies: Supplies, report: Report) -> Report:
    """Report an epoch when its files are kept; the first worker has written them."""
    from drcnn.engine.workers import rank

    def push_and_report(metrics: dict[str, float]) -> None:
        if rank() == 0:
            supplies.storage.upload(trial.folder)
        report(metrics)

    return push_and_report


@contextmanager
def verdict_on_failure(trial: Trial, supplies: Supplies) -> Iterator[None]:
    """Record a failure that would only repeat itself; raise what may go well the next time."""
    from drcnn.engine.checkpoint import CheckpointError
    from drcnn.engine.train import TrainingDiverged

    def fail(error: Exception, trace: str = "") -> None:
        write_failed(trial.folder, f"{type(error).__name__}: {error}{_advice(error)}", trace)
        supplies.storage.upload(trial.folder, ["error.json"])

    try:
        yield
    except (TrainingDiverged, DataError, ConfigError, CheckpointError) as error:
        fail(error)
    except OSError:
        # TrialStore has bad moments: Tune tries again, as it does after a killed process.
        raise
    except Exception as error:
        # Raised for Tune to drop this process, whose GPU may be in a bad state; the retry finds the verdict.
        if _is_of_the_machine(error):
            raise RuntimeError(f"{type(error).__name__}: {error} (on {socket.gethostname()})") from error
        fail(error, traceback.format_exc())
        raise


def _advice(error: Exception) -> str:
    if type(error).__name__ != "OutOfMemoryError":
        return ""
    return " -- lower training.batch_size, or give the trial more of a GPU with --gpus-per-worker"


def _is_of_the_machine(error: Exception) -> bool:
    """Whether another process or machine may do better: a GPU is broken, or a worker of the group is gone."""
    import torch
    import torch.distributed as dist

    from drcnn.engine.workers import world_size

    if isinstance(error, torch.OutOfMemoryError):
        return False
    # Torch and gloo raise plain RuntimeErrors; gloo names only its source file in them.
    said = str(error)
    if any(word in said for word in ("CUDA error", "CUDA driver", "No CUDA GPUs", "CUDA unknown error")):
        return True
    return world_size() > 1 and (isinstance(error, dist.DistError) or "gloo" in said or "NCCL" in said)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Wait until no other process trains in this folder: another study, or a killed one's last moments."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
