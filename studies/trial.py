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
from studies.trials import Trial, outcome, write_verdict

__all__ = ["train_here", "train_in_group"]

Report = Callable[[dict[str, float]], None]


def train_here(config: Mapping[str, Any]) -> None:
    """Tune function of a trial with one worker: trains or evaluates in the trial's actor."""
    trial: Trial = config["trial"]
    with _only_one(trial.folder):
        _guarded(trial, lambda: _work(trial, config["options"], tune.report))
        if config["timed"] and outcome(trial.folder).status == "finished":
            _guarded(trial, lambda: _time(trial, config["options"]))


def train_in_group(config: Mapping[str, Any]) -> None:
    """Tune function of a trial with several workers: starts them with Ray Train and waits.

    The workers' placement group is not Tune's. When this actor is killed, Ray Train's cleaner removes
    it with the help of the dashboard, which must therefore be running.
    """
    from ray.train.torch import TorchConfig, TorchTrainer

    trial: Trial = config["trial"]
    group: Mapping[str, Any] = config["group"]
    with _only_one(trial.folder):
        if outcome(trial.folder).status != "unfinished":
            return
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"trial": trial, "options": config["options"]},
            torch_config=TorchConfig(backend="nccl" if group["gpus"] else "gloo"),
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
                failure_config=FailureConfig(max_failures=2, controller_failure_limit=3),
            ),
        )
        try:
            trainer.fit()
        except Exception:
            # A failure that would only repeat itself is recorded by the worker that saw it.
            if outcome(trial.folder).status != "failed":
                raise


def _worker(config: Mapping[str, Any]) -> None:
    """One worker of a group: fails at once, on all ranks alike, where its trial failed for good before."""
    trial: Trial = config["trial"]
    failure = outcome(trial.folder).error
    if failure is None:
        _train(trial, config["options"], ray.train.report)
        failure = outcome(trial.folder).error
    if failure is not None:
        raise RuntimeError(failure)


def _train(trial: Trial, options: Mapping[str, Any], report: Report) -> None:
    _guarded(trial, lambda: _work(trial, options, report))


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


def _guarded(trial: Trial, work: Callable[[], None]) -> None:
    """Do a trial's work; record a failure that would only repeat itself."""
    from drcnn.engine.checkpoint import CheckpointError
    from drcnn.engine.train import TrainingDiverged

    try:
        work()
    except (TrainingDiverged, DataError, ConfigError, CheckpointError) as error:
        write_verdict(trial.folder, "failed", f"{type(error).__name__}: {error}")
    except OSError:
        # Storage has bad moments: Tune tries again, as it does after a killed process.
        raise
    except Exception as error:
        # Raised for Tune to drop this process, whose GPU may be in a bad state; the retry finds the verdict.
        write_verdict(trial.folder, "failed", f"{type(error).__name__}: {error}", traceback.format_exc())
        raise


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Wait until no other process trains in this folder: another study, or a killed one's last moments."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
