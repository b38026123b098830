"""Tells MLflow and the live table what happens to the trials that Ray Tune runs, and records how they end."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.train.constants import _get_ray_train_session_dir
from ray.tune.experiment import Trial as TuneTrial

from drcnn.engine.record import Status, read_record, write_failed, write_pruned
from drcnn.files import SECONDS, DiskFullError, require_space, tells_of_a_full_disk, waiting_for_space
from studies.definition.plan import Plan, Trial
from studies.definition.request import Machines
from studies.execution.lost_attempts import NodeFaults, reason_of_loss
from studies.execution.progress import Progress
from studies.record.tracking.runs import Tracker
from studies.resources.budget import Budget
from studies.resources.refused_nodes import RefusedNodes
from studies.resources.slots import Allocation
from studies.transfer.trial_folders import TrialFolders
from studies.worker.space_note import take_space_note

__all__ = ["FullDisk", "TuneRun", "Watcher", "full_disk_behind"]

logger = logging.getLogger(__name__)

# Between two looks for trials that wait for space.
LOOK_SECONDS = 2.0
METRIC_FAMILIES = ("val/", "test/", "train/", "perf/")


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


class FullDisk(tune.Stopper):
    """Ends all trials once one has waited for space in vain: the others would only wait as well."""

    def __init__(self) -> None:
        self.message = ""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is stopped."""
        return False

    def stop_all(self) -> bool:
        """Whether a trial has found a disk full."""
        return bool(self.message)


class Watcher(tune.Callback):
    """Tells MLflow and the table what happens to each trial, and records how it ended.

    Args:
        run: whom to tell.
        full_disk: is told when that ended a trial; such a trial has not failed, and goes on another time.
        prunes: whether a trial that stops before its last epoch was pruned.
        waits: whether a trial that starts still has to wait for its workers.
        attempts: how many a trial has.
    """

    def __init__(
        self, run: TuneRun, full_disk: FullDisk, *, prunes: bool, waits: bool, attempts: int
    ) -> None:
        self._run, self._full_disk = run, full_disk
        self._prunes, self._waits, self._attempts = prunes, waits, attempts
        self._node_faults = NodeFaults(run.allocation)
        self._said_full, self._look_again = False, 0.0
        # Of these what kills said in earlier launches is deleted.
        self._begun: set[str] = set()
        self._refused = RefusedNodes() if run.machines.is_cluster else None

    def __getstate__(self) -> dict[str, Any]:
        # Tune saves its callbacks to restore them; we never restore, and connections cannot be saved.
        return {}

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Tune has looked around, as it does all the time, also while trials wait for nodes or for space."""
        if self._refused is not None and (line := self._refused.line()):
            logger.warning(line)
        if not self._said_full and time.monotonic() >= self._look_again:
            self._look_again = time.monotonic() + LOOK_SECONDS
            self._say_once_if_full(
                [trial.config["trial"] for trial in trials if trial.status == TuneTrial.RUNNING]
            )

    def _say_once_if_full(self, running: list[Trial]) -> None:
        for ours in running:
            if take_space_note(ours.folder):
                free = shutil.disk_usage(ours.folder).free / 1e6
                self._run.progress.say(
                    f"no space left in {ours.folder} ({free:,.1f} MB are free): {ours.name} waits for space, "
                    f"{SECONDS / 60:.0f} minutes at most; free space there"
                )
                self._said_full = True
                return

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """An attempt of a trial begins."""
        ours: Trial = trial.config["trial"]
        self._forget_earlier_launches(ours)
        self._run.tracker.start(ours)
        if self._run.budget is not None:
            self._run.budget.begin(ours.id)
        status = Status.PENDING if self._waits else Status.RUNNING
        self._run.progress.show(ours, status, read_record(ours.folder).metrics)

    def _forget_earlier_launches(self, ours: Trial) -> None:
        """Delete the notes that they left, before this launch's first attempt begins, or is lost at once."""
        if ours.id not in self._begun:
            self._begun.add(ours.id)
            take_space_note(ours.folder)
            try:
                self._run.folders.forget_kills(ours)
            except OSError as error:
                logger.warning("%s: notes of earlier launches stay in --storage: %s", ours.name, error)

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch ended, or inference was timed."""
        if "epoch" not in result:
            return
        ours: Trial = trial.config["trial"]
        metrics = _own_metrics(result)
        self._run.tracker.log(ours, metrics)
        self._run.progress.show(ours, Status.RUNNING, metrics)

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """A trial ended by itself, or was pruned."""
        ours: Trial = trial.config["trial"]
        problem = self._full_disk.message or self._collect(ours)
        if not problem and not read_record(ours.folder).is_terminal:
            if self._prunes:
                self._write(partial(write_pruned, ours.folder))
            else:
                self._write(partial(write_failed, ours.folder, "ended without result.json"))
        if self._run.budget is not None and read_record(ours.folder).is_finished:
            self._run.budget.end(ours.id)
        self._settle(ours, problem)

    def on_trial_recover(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """An attempt was lost, and another follows."""
        ours: Trial = trial.config["trial"]
        reason = self._reason(trial)
        trial.config["attempt"] = trial.config.get("attempt", 0) + 1
        # Tune does not count those that a node takes with it when it is taken away.
        failures = trial.config["failures"] = trial.num_failures
        if not read_record(ours.folder).is_terminal:
            why = f"{reason}; tried again ({failures + 1} of {self._attempts})"
            self._run.progress.show(ours, Status.PENDING, read_record(ours.folder).metrics, why)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """The last attempt was lost."""
        ours: Trial = trial.config["trial"]
        # All that an attempt writes waits for space: one that ended so has waited in vain. And Tune cannot
        # write down an error if its own disk is full.
        message = _full_disk_in(_last_error(trial)) or missing_space(self._run.plan.folder)
        self._full_disk.message = self._full_disk.message or message
        problem = message or self._collect(ours)
        if not message:
            failures = trial.num_failures
            times = f" (attempt {failures} of {self._attempts})" if failures > 1 else ""
            self._write(partial(write_failed, ours.folder, f"{self._reason(trial)}{times}"))
        self._settle(ours, problem)

    def _reason(self, trial: TuneTrial) -> str:
        """Why an attempt was lost; a node that has lost too many is left alone, and named."""
        ours: Trial = trial.config["trial"]
        self._forget_earlier_launches(ours)
        text = _last_error(trial)
        reason = reason_of_loss(ours.folder, trial.config.get("attempt", 0), text)
        if (done := self._node_faults.count(ours.id, reason, text)) is not None:
            logger.warning("%s. Why: %s", done, reason)
        return reason

    def _write(self, write: Callable[[], None]) -> None:
        waiting_for_space(write, self._run.progress.say)

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


def missing_space(*folders: Path) -> str:
    """Why nothing can be written to one of these folders; empty if there is space."""
    for folder in folders:
        try:
            require_space(folder)
        except DiskFullError as error:
            return str(error)
        except OSError:
            continue
    return ""


def full_disk_behind(error: Exception, folder: Path) -> str:
    """What is full, in one line, if that is why Tune has ended with an error; else empty.

    Args:
        error: as Tune raises it: its own text may hold the traceback of another.
        folder: of the study; what Tune itself writes is in the folder of Ray's session.
    """
    session = [Path(_get_ray_train_session_dir())] if ray.is_initialized() else []
    if message := missing_space(folder, *session) or _full_disk_in(str(error)):
        return message
    if not tells_of_a_full_disk(error):
        return ""
    # There is space again.
    where = getattr(error, "filename", None) or " or ".join(map(str, (folder, *session)))
    return f"there was no space left to write to {where}; free space there and run the same command again"


def _full_disk_in(text: str) -> str:
    """What a traceback tells of a full disk; empty if nothing."""
    return text.partition(f"{DiskFullError.__name__}: ")[2].partition("\n")[0]


def _last_error(trial: TuneTrial) -> str:
    """What Ray wrote of the trial's last failure."""
    try:
        text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
    except (OSError, TypeError):
        return ""
    return text.rpartition("Failure # ")[2].partition("\n")[2]
