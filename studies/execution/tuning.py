"""Runs the trials that are left with Ray Tune, and tells MLflow and the live table what happens to them.

Ray's own checkpoints and ``Tuner.restore`` are not used. A trial's folder is the record: a launch hands Tune
only the trials that are left, and what Tune itself writes is thrown away.
"""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune

from drcnn.engine.record import read_record
from drcnn.files import DiskFullError
from studies.definition.plan import Trial
from studies.definition.study import SearchStudy
from studies.execution.budgeted import BudgetedTrials
from studies.execution.trial_watcher import FullDisk, TuneRun, Watcher, full_disk_behind
from studies.execution.tune_losses import make_tune_outlive_losses
from studies.resources.slots import HEAD, Allocation
from studies.search.pruning import make_scheduler
from studies.search.searcher import StudySearcher
from studies.worker.job import Job, WorkerGroup, run_options
from studies.worker.trial_run import run_trial
from studies.worker.workers import run_trial_with_workers

__all__ = ["run_trials"]

logger = logging.getLogger(__name__)

# How often a trial goes on after a fault of the machine, with one worker or several; machines of a spot
# market are taken away often.
RETRIES, CLUSTER_RETRIES = 2, 10


def run_trials(
    run: TuneRun,
    remaining: Sequence[Trial] | BudgetedTrials | StudySearcher,
    ended: Sequence[Trial] = (),
    trainable: Callable[[Mapping[str, Any]], None] | None = None,
) -> None:
    """Train or evaluate what is left; returns when every trial has ended, one way or another.

    Args:
        run: what to work with.
        remaining: trials that all train, with a budget or without, or all evaluate, or have all finished and
            are timed; or a search, which gives one after another.
        ended: trials of earlier launches, for a search's pruning.
        trainable: what a trial does in place of training; for benchmarks of all the rest.

    Raises:
        DiskFullError: a disk stays full, a trial's, the study's, or that of Ray's temporary files.
        StudyError: another process keeps the record of a search to itself, or its disk is full.
    """
    retries = CLUSTER_RETRIES if run.machines.is_cluster else RETRIES
    storage = run.plan.folder.resolve() / "ray"
    if isinstance(remaining, StudySearcher):
        study = run.plan.study
        times = isinstance(study, SearchStudy) and study.minimise is not None
    else:
        listed = remaining.trials if isinstance(remaining, BudgetedTrials) else remaining
        times = all(read_record(trial.folder).is_finished for trial in listed)
    param_space: dict[str, Any] = {"job": _job(run, storage, measures_latency=times)}
    searcher: StudySearcher | BudgetedTrials | None
    if isinstance(remaining, StudySearcher):
        searcher, scheduler = remaining, make_scheduler(run.plan, ended)
        # Not those that were pruned: a search does not run them again.
        reopened: Sequence[Trial] = [t for t in remaining.trials() if read_record(t.folder).is_failed]
        trains = True
    else:
        # What is listed, or confirms a search, runs to its end.
        scheduler = None
        if isinstance(remaining, BudgetedTrials):
            searcher, reopened = remaining, remaining.trials
        else:
            searcher, reopened = None, remaining
            param_space["trial"] = tune.grid_search(list(remaining))
        trains = not times and not reopened[0].is_evaluation
    for trial in reopened:
        if not read_record(trial.folder).is_finished:  # else it is only timed
            run.folders.reopen(trial)
    in_group = run.machines.workers > 1 and trains
    full_disk = FullDisk()
    tuner = tune.Tuner(
        _with_resources(trainable, run.allocation, in_group=in_group),
        param_space=param_space,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1 if searcher else 1,
            max_concurrent_trials=run.allocation.concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(storage),
            callbacks=[
                Watcher(run, full_disk, prunes=scheduler is not None, waits=in_group, attempts=1 + retries)
            ],
            stop=full_disk,
            # For faults of the machine; an error that would repeat itself is final (see faults).
            failure_config=tune.FailureConfig(max_failures=retries),
            verbose=0,
        ),
    )
    make_tune_outlive_losses()
    try:
        tuner.fit()
    except Exception as error:
        full_disk.message = full_disk.message or _what_is_full(error, run.plan.folder, remaining)
        if not full_disk.message:
            raise
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    if full_disk.message:
        raise DiskFullError(errno.ENOSPC, full_disk.message)


def _what_is_full(error: Exception, folder: Path, remaining: object) -> str:
    """What is full, if that is why Tune has ended; else empty.

    Raises:
        StudyError: the record of a search could not be used, of which Tune makes a page.
    """
    if isinstance(remaining, StudySearcher) and remaining.fault is not None:
        raise remaining.fault from None
    return full_disk_behind(error, folder)


def _job(run: TuneRun, storage: Path, *, measures_latency: bool) -> Job:
    allocation = run.allocation
    return Job(
        run.folders,
        run_options(allocation),
        WorkerGroup(
            run.machines.workers, allocation.cpus, allocation.gpus, str(storage / "train"), allocation.packs
        ),
        measures_latency=measures_latency,
        examination=allocation.examination,
    )


def _with_resources(trainable: Any, allocation: Allocation, *, in_group: bool) -> Any:
    """What a trial runs, with the resources that Tune reserves for it."""
    if not in_group:
        return tune.with_resources(trainable or run_trial, {"CPU": allocation.cpus, "GPU": allocation.gpus})
    # The trial's actor only waits: on a full cluster a whole CPU for it would be one that a worker lacks,
    # and the group would never start. It stays on the head, which no spot market takes away.
    return tune.with_resources(trainable or run_trial_with_workers, {"CPU": 0, HEAD: 0.001})
