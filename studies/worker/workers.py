"""A trial with several workers: Ray Train inside Ray Tune."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from queue import Empty
from typing import Any, Protocol

import ray.train
from ray import tune
from ray.train import Checkpoint, UserCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import WorkerGroupError
from ray.util.queue import Queue

from drcnn.engine.record import read_record
from studies.definition.plan import Trial
from studies.worker.faults import failures_recorded, wait_before_attempt
from studies.worker.job import Job
from studies.worker.notice import NodeTakenAway
from studies.worker.trial_run import work_watched

__all__ = ["reports", "run_trial_with_workers"]

# How long to wait for a report before looking whether the group has ended.
POLL_SECONDS = 0.5


def run_trial_with_workers(config: Mapping[str, Any]) -> None:
    """Tune function of a trial with several workers: starts them with Ray Train and waits.

    The workers' placement group is not Tune's. When this actor is killed, Ray Train's cleaner removes it with
    the help of the dashboard, which must therefore be running.
    """
    trial: Trial = config["trial"]
    job: Job = config["job"]
    attempt = config.get("attempt", 0)
    wait_before_attempt(config.get("failures", 0))
    with job.folders.locked(trial):
        job.folders.collect(trial)
        if read_record(trial.folder).is_terminal:
            return
        queue = Queue(actor_options={"num_cpus": 0})
        trainer = _trainer(trial, job, attempt, queue)
        try:
            for metrics in reports(trainer.fit, queue):
                tune.report(metrics)
        except Exception as error:
            if (taken := _taken_away(error)) is not None:
                raise taken from None
            # A failure that would only repeat itself is recorded by the worker that saw it.
            job.folders.collect(trial)
            if not read_record(trial.folder).is_failed:
                raise
        finally:
            queue.shutdown(force=True)


def _taken_away(error: Exception) -> Exception | None:
    """What a worker raised since its node goes away; Train, if it has the notice too, goes on by itself."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
    causes = (getattr(failure, "_base_exc", failure) for failure in failures)
    return next((cause for cause in causes if isinstance(cause, NodeTakenAway)), None)


class _Source(Protocol):
    def get(self, *, timeout: float) -> dict[str, float]: ...


def reports(fit: Callable[[], Any], queue: _Source) -> Iterator[dict[str, float]]:
    """Run a fit, and yield what it puts into a queue until it has ended and the queue is empty.

    Ray's own way from Train to Tune (``TuneReportCallback``, 2.60) lets the trial wait for ever if its group
    ends while a report is still on its way, as it does when the driver is slower than a short last epoch:
    Tune's "the function has ended" fills the one place that this report waits for.

    Raises:
        Exception: what the fit raised, after all its reports.
    """
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(fit)
        while True:
            # Asked before the queue: what was put in until then is in it.
            has_ended = running.done()
            try:
                yield queue.get(timeout=POLL_SECONDS)
            except Empty:
                if has_ended:
                    break
        running.result()


class _Reports(UserCallback):
    """Puts the first worker's metrics of each epoch into a queue."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def after_report(
        self, run_context: TrainRunContext, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None
    ) -> None:
        self._queue.put(metrics[0])


def _trainer(trial: Trial, job: Job, attempt: int, queue: Queue) -> Any:
    from ray.train.torch import TorchTrainer

    from studies.resources.network import TorchOnNodeAddress

    group = job.group
    gpus = {"GPU": group.gpus} if group.gpus else {}
    return TorchTrainer(
        _work,
        train_loop_config={"trial": trial, "job": job, "attempt": attempt},
        torch_config=TorchOnNodeAddress(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=group.workers,
            use_gpu=bool(gpus),
            resources_per_worker={"CPU": group.cpus, **gpus},
            placement_strategy="STRICT_PACK" if group.packs else "PACK",
        ),
        run_config=RunConfig(  # type: ignore[arg-type] # mypy sees the trainer of Ray Train V1
            name=trial.id,
            storage_path=group.storage,
            callbacks=[_Reports(queue)],
            # Tune tries a trial again that lost a worker, from its last epoch, or whose group did not start:
            # one limit for one worker and for many. By default Train tries to start a group for ever.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
        ),
    )


def _work(config: Mapping[str, Any]) -> None:
    """One worker of a group; returns at once if its trial failed for good before the group was restarted."""
    import torch.distributed as dist

    trial: Trial = config["trial"]
    job: Job = config["job"]
    with failures_recorded(trial, job.folders):
        if ray.train.get_context().get_local_rank() == 0:
            job.prepare_node(trial, config["attempt"])
        # The node's other workers read what its first one downloaded.
        dist.barrier()
    if read_record(trial.folder).is_failed:
        return
    with failures_recorded(trial, job.folders):
        work_watched(trial, job, config["attempt"], ray.train.report)
        if ray.train.get_context().get_local_rank() == 0:
            job.folders.drop_weights(trial)
    error = read_record(trial.folder).error
    if error is not None:
        # The others may wait for this worker's gradients: the group has to end.
        raise RuntimeError(error)
