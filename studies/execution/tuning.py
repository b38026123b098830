"""Runs the trials that are left with Ray Tune, and tells MLflow and the live table what happens to them.

Ray's own checkpoints and ``Tuner.restore`` are not used. A trial's folder is the record: a launch hands Tune
only the trials that are left, and what Tune itself writes is thrown away.
"""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from drcnn.engine.record import Status, read_record, write_failed, write_pruned
from drcnn.files import DiskFullError, require_space
from studies.definition.plan import Plan, Trial
from studies.definition.request import Machines
from studies.definition.study import SearchStudy
from studies.execution.budgeted import BudgetedTrials
from studies.execution.job import Job, WorkerGroup, run_options
from studies.execution.progress import Progress
from studies.execution.trial_run import run_trial
from studies.execution.workers import run_trial_with_workers
from studies.record.tracking.runs import Tracker
from studies.resources.budget import Budget
from studies.resources.slots import HEAD, Allocation
from studies.search.pruning import make_scheduler
from studies.search.searcher import StudySearcher
from studies.transfer.trial_folders import TrialFolders

__all__ = ["TuneRun", "run_trials"]

logger = logging.getLogger(__name__)

METRIC_FAMILIES = ("val/", "test/", "train/", "perf/")
# How often a trial goes on after a killed process; machines of a spot market are taken away often.
RETRIES, CLUSTER_RETRIES = 2, 10


@dataclass(frozen=True)
class TuneRun:
    """What one run of Ray Tune works with, and whom it tells.

    Attributes:
        plan: the study.
        machines: what the command line says of them.
        allocation: what each worker gets, and how many trials run at once.
        folders: where nodes get files and data from.
        tracker: MLflow.
        progress: the live table.
        budget: of the launch, to be told when trials begin and end; none if its time has no limit.
    """

    plan: Plan
    machines: Machines
    allocation: Allocation
    folders: TrialFolders
    tracker: Tracker
    progress: Progress
    budget: Budget | None = None


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
    """
    retries = CLUSTER_RETRIES if run.machines.is_cluster else RETRIES
    storage = run.plan.folder.resolve() / "ray"
    if isinstance(remaining, StudySearcher):
        study = run.plan.study
        times = isinstance(study, SearchStudy) and study.minimise is not None
    else:
        listed = remaining.trials if isinstance(remaining, BudgetedTrials) else remaining
        times = all(read_record(trial.folder).is_finished for trial in listed)
    param_space: dict[str, Any] = {"job": _job(run, storage, retries, measures_latency=times)}
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
        run.folders.reopen(trial)
    in_group = run.machines.workers > 1 and trains
    full_disk = _FullDisk()
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
            callbacks=[_Watcher(run, full_disk, prunes=scheduler is not None, waits=in_group)],
            stop=full_disk,
            # For killed processes; an error that would repeat itself is final (see faults).
            failure_config=tune.FailureConfig(max_failures=retries),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except Exception:
        # Tune's own files, whose disk is full as well, may be what it stumbles over.
        full_disk.message = full_disk.message or _missing_space(run.plan.folder)
        if not full_disk.message:
            raise
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    if full_disk.message:
        raise DiskFullError(errno.ENOSPC, full_disk.message)


def _job(run: TuneRun, storage: Path, retries: int, *, measures_latency: bool) -> Job:
    allocation = run.allocation
    return Job(
        run.folders,
        run_options(allocation),
        WorkerGroup(run.machines.workers, allocation.cpus, allocation.gpus, str(storage / "train"), retries),
        measures_latency=measures_latency,
    )


def _with_resources(trainable: Any, allocation: Allocation, *, in_group: bool) -> Any:
    """What a trial runs, with the resources that Tune reserves for it."""
    if not in_group:
        return tune.with_resources(trainable or run_trial, {"CPU": allocation.cpus, "GPU": allocation.gpus})
    # The trial's actor only waits: on a full cluster a whole CPU for it would be one that a worker lacks,
    # and the group would never start. It stays on the head, which no spot market takes away.
    return tune.with_resources(trainable or run_trial_with_workers, {"CPU": 0, HEAD: 0.001})


class _FullDisk(tune.Stopper):
    """Ends all trials once one has waited for space in vain: the others would only wait as well."""

    def __init__(self) -> None:
        self.message = ""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Whether a trial has found a disk full."""
        return bool(self.message)


class _Watcher(tune.Callback):
    """Tells MLflow and the table what happens to each trial, and records how it ended.

    Args:
        run: whom to tell.
        full_disk: is told when that ended a trial; such a trial has not failed, and goes on another time.
        prunes: whether a trial that stops before its last epoch was pruned.
        waits: whether a trial that starts still has to wait for its workers.
    """

    def __init__(self, run: TuneRun, full_disk: _FullDisk, *, prunes: bool, waits: bool) -> None:
        self._run, self._full_disk = run, full_disk
        self._prunes, self._waits = prunes, waits

    def __getstate__(self) -> dict[str, Any]:
        # Tune saves its callbacks to restore them; we never restore, and connections cannot be saved.
        return {}

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        ours: Trial = trial.config["trial"]
        self._run.tracker.start(ours)
        if self._run.budget is not None:
            self._run.budget.begin(ours.id)
        status = Status.PENDING if self._waits else Status.RUNNING
        self._run.progress.show(ours, status, read_record(ours.folder).metrics)

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        if "epoch" not in result:
            return
        ours: Trial = trial.config["trial"]
        metrics = _own_metrics(result)
        self._run.tracker.log(ours, metrics)
        self._run.progress.show(ours, Status.RUNNING, metrics)

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        ours: Trial = trial.config["trial"]
        problem = self._full_disk.message or self._collect(ours)
        if not problem and not read_record(ours.folder).is_terminal:
            if self._prunes:
                write_pruned(ours.folder)
            else:
                write_failed(ours.folder, "ended without result.json")
        if self._run.budget is not None and read_record(ours.folder).is_finished:
            self._run.budget.end(ours.id)
        self._settle(ours, problem)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        ours: Trial = trial.config["trial"]
        error = _line_of_error(trial)
        # Tune cannot write down the error if its own disk is full.
        message = error.partition(f"{DiskFullError.__name__}: ")[2] or _missing_space(self._run.plan.folder)
        self._full_disk.message = self._full_disk.message or message
        problem = message or self._collect(ours)
        if not message:
            write_failed(ours.folder, error)
        self._settle(ours, problem)

    def _collect(self, trial: Trial) -> str:
        """Download what a node has left of a trial; returns why that is not possible now, empty if it is."""
        try:
            self._run.folders.collect(trial)
        except OSError as error:
            return f"ended, but cannot be downloaded from --storage now: {error}; the next launch does"
        return ""

    def _settle(self, trial: Trial, problem: str) -> None:
        if not problem:
            # Else the store may know better: what is here must not replace how it ended there.
            self._upload(trial)
        self._run.tracker.finish(trial)
        record = read_record(trial.folder)
        status = Status.FAILED if problem else record.status
        self._run.progress.show(trial, status, record.metrics, problem or record.error or "")

    def _upload(self, trial: Trial) -> None:
        try:
            self._run.folders.upload_outcome(trial)
            # A search's record, should this machine be lost.
            self._run.folders.store.upload(self._run.plan.folder)
        except OSError as error:
            logger.warning("%s: cannot be uploaded to --storage: %s", trial.name, error)


def _own_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Our own metrics among all that Tune adds."""
    return {
        key: float(value)
        for key, value in result.items()
        if key == "epoch" or key.startswith(METRIC_FAMILIES)
    }


def _missing_space(folder: Path) -> str:
    """Why nothing can be written there; empty if there is space."""
    try:
        require_space(folder)
    except DiskFullError as error:
        return str(error)
    return ""


def _line_of_error(trial: TuneTrial) -> str:
    """The last line of the trial's traceback, the error itself; or what it tells of a full disk."""
    unknown = "ended without a message"
    try:
        lines = Path(trial.error_file).read_text(encoding="utf-8").strip().splitlines()
    except (OSError, TypeError):
        return unknown
    full = (line for line in lines if f"{DiskFullError.__name__}: " in line)
    return next(full, next((line.strip() for line in reversed(lines) if line.strip()), unknown))[:2000]
