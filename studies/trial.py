"""What runs on Ray: one trial, in Tune's own actor or in a group of Ray Train workers inside it.

A trial trains, or evaluates what another has trained. Both ways of training call the same ``fit`` on the
trial's folder, so a trial gives the same figures either way, up to the order of floating-point sums, and may
be continued either way. Nothing but metrics goes through Ray: an epoch's checkpoint is in the folder when the
epoch is reported.
"""

from __future__ import annotations

import fcntl
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.train
from ray import tune
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.tune.integration.ray_train import TuneReportCallback

from drcnn.config import ConfigError
from drcnn.data.annotations import DataError
from studies.supplies import Supplies
from studies.trials import Trial, outcome, write_verdict

__all__ = ["train_here", "train_in_group"]

Report = Callable[[dict[str, float]], None]


def train_here(config: Mapping[str, Any]) -> None:
    """Tune function of a trial with one worker: trains or evaluates in the trial's actor."""
    trial: Trial = config["trial"]
    supplies: Supplies = config["supplies"]
    with _only_one(trial.folder):
        with _verdict_on_failure(trial, supplies):
            supplies.bring(trial)
            _work(trial, config["options"], _pushing(trial, supplies, tune.report))
        if config["timed"] and outcome(trial.folder).status == "finished":
            with _verdict_on_failure(trial, supplies):
                _time(trial, config["options"])
        supplies.storage.push(trial.folder)


def train_in_group(config: Mapping[str, Any]) -> None:
    """Tune function of a trial with several workers: starts them with Ray Train and waits.

    The workers' placement group is not Tune's. When this actor is killed, Ray Train's cleaner removes
    it with the help of the dashboard, which must therefore be running.
    """
    from ray.train.torch import TorchTrainer

    from studies.interface import TorchOnNodeAddress

    trial: Trial = config["trial"]
    group: Mapping[str, Any] = config["group"]
    supplies: Supplies = config["supplies"]
    with _only_one(trial.folder):
        supplies.storage.pull(trial.folder)
        if outcome(trial.folder).status != "unfinished":
            return
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"trial": trial, "options": config["options"], "supplies": supplies},
            torch_config=TorchOnNodeAddress(backend="nccl" if group["gpus"] else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=group["workers"],
                use_gpu=group["gpus"] > 0,
                resources_per_worker={
                    "CPU": group["cpus"],
                    **({"GPU": group["gpus"]} if group["gpus"] else {}),
                },
            ),
            run_config=RunConfig(  # type: ignore[arg-type] # mypy sees the trainer of Ray Train V1
                name=trial.id,
                storage_path=group["storage"],
                callbacks=[TuneReportCallback()],  # type: ignore[no-untyped-call]
                # A killed worker restarts the group from the trial's last epoch. Without the second limit a
                # group that cannot get its workers would be tried for ever, silently.
                failure_config=FailureConfig(max_failures=group["retries"], controller_failure_limit=3),
            ),
        )
        try:
            trainer.fit()
        except Exception:
            # A failure that would only repeat itself is recorded by the worker that saw it.
            supplies.storage.pull(trial.folder)
            if outcome(trial.folder).status != "failed":
                raise


def _worker(config: Mapping[str, Any]) -> None:
    """One worker of a group; returns at once if its trial failed for good before the group was restarted."""
    import torch.distributed as dist

    trial: Trial = config["trial"]
    supplies: Supplies = config["supplies"]
    with _verdict_on_failure(trial, supplies):
        if ray.train.get_context().get_local_rank() == 0:
            supplies.bring(trial)
        # The node's other workers read what its first one brought.
        dist.barrier()
    if outcome(trial.folder).error is not None:
        return
    with _verdict_on_failure(trial, supplies):
        _work(trial, config["options"], _pushing(trial, supplies, ray.train.report))
    failure = outcome(trial.folder).error
    if failure is not None:
        # The others may wait for this worker's gradients: the group has to end.
        raise RuntimeError(failure)


def _work(trial: Trial, options: Mapping[str, Any], report: Report) -> None:
    from drcnn.engine.train import RunOptions, fit

    # Finished meanwhile by another study, or failed in a way that would only repeat itself.
    found = outcome(trial.folder)
    if found.status == "finished":
        report(found.metrics)
    if found.status in {"finished", "failed"}:
        return
    if trial.model is None:
        fit(trial.config, trial.data, trial.folder, report=report, options=RunOptions(**options))
        return
    from studies.evaluation import evaluate

    trained = outcome(trial.model.folder)
    if trained.status != "finished":
        why = trained.error or trained.status
        write_verdict(trial.folder, "failed", f"the detector was not trained ({trial.model.name}: {why})")
        return
    report(evaluate(trial, RunOptions(**options)))


def _time(trial: Trial, options: Mapping[str, Any]) -> None:
    from drcnn.engine.train import RunOptions
    from studies.evaluation import measure_latency

    measure_latency(trial, RunOptions(**options))


def _pushing(trial: Trial, supplies: Supplies, report: Report) -> Report:
    """Report an epoch when its files are kept; the first worker has written them."""
    from drcnn.engine.workers import rank

    def push_and_report(metrics: dict[str, float]) -> None:
        if rank() == 0:
            supplies.storage.push(trial.folder)
        report(metrics)

    return push_and_report


@contextmanager
def _verdict_on_failure(trial: Trial, supplies: Supplies) -> Iterator[None]:
    """Record a failure that would only repeat itself; raise what may go well the next time."""
    from drcnn.engine.checkpoint import CheckpointError
    from drcnn.engine.train import TrainingDiverged

    def fail(error: Exception, trace: str = "") -> None:
        write_verdict(trial.folder, "failed", f"{type(error).__name__}: {error}{_advice(error)}", trace)
        supplies.storage.push(trial.folder, ["error.json"])

    try:
        yield
    except (TrainingDiverged, DataError, ConfigError, CheckpointError) as error:
        fail(error)
    except OSError:
        # Storage has bad moments: Tune tries again, as it does after a killed process.
        raise
    except Exception as error:
        # Raised for Tune to drop this process, whose GPU may be in a bad state; the retry finds the verdict.
        if not _lost_a_peer(error):
            fail(error, traceback.format_exc())
        raise


def _advice(error: Exception) -> str:
    if type(error).__name__ != "OutOfMemoryError":
        return ""
    return " -- lower training.batch_size, or give the trial more of a GPU with --gpus-per-worker"


def _lost_a_peer(error: Exception) -> bool:
    """Whether another worker of the group is gone, its node perhaps: no fault of the trial's."""
    import torch.distributed as dist

    from drcnn.engine.workers import world_size

    if world_size() == 1:
        return False
    # Gloo raises plain RuntimeErrors, and names only its source file in them.
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL"))


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Wait until no other process trains in this folder: another study, or a killed one's last moments."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
