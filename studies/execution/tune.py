"""Runs trials with Ray Tune, and watches them.

Ray's own checkpoints and ``Tuner.restore`` are not used. A trial's folder is the record (see ``trials``): a
launch hands Tune only the trials that are left, and what Tune itself writes is thrown away.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from drcnn.engine.record import OUTCOME_FILES, read_record, reopen, write_failed, write_pruned
from studies.definition.machines import Machines
from studies.definition.plan import Plan, Trial
from studies.definition.study import SearchStudy
from studies.execution.group import train_in_group
from studies.execution.progress import Progress
from studies.execution.trial_run import train_here
from studies.record.tracking import Tracker
from studies.resources.slots import HEAD, Allocation
from studies.search.searcher import StudySearch, scheduler
from studies.transfer.supplies import Supplies

__all__ = ["run"]

logger = logging.getLogger(__name__)

FAMILIES = ("val/", "train/", "perf/")
# How often a trial goes on after a killed process; machines of a spot market are taken away often.
RETRIES, CLUSTER_RETRIES = 2, 10


def run(
    plan: Plan,
    left: Sequence[Trial] | StudySearch,
    finished: Sequence[Trial],
    *,
    machines: Machines,
    given: Allocation,
    supplies: Supplies,
    tracker: Tracker,
    progress: Progress,
    trainable: Callable[[Mapping[str, Any]], None] | None = None,
) -> None:
    """Train or evaluate what is left; returns when every trial ended, whichever way.

    Args:
        plan: the study.
        left: its trials, of one sort: all train, or all evaluate; or a search that gives one after another.
        finished: trials that a search's early stopping knows already.
        machines: what the command line says.
        given: what each worker gets.
        supplies: where nodes get files and data from.
        tracker: told what happens, like ``progress``.
        progress: the live table.
        trainable: what a trial does in place of training; for measuring all the rest.
    """
    for trial in left.trials() if isinstance(left, StudySearch) else left:
        if read_record(trial.folder).is_failed or not isinstance(left, StudySearch):
            reopen(trial.folder)
            supplies.storage.delete(trial.folder, OUTCOME_FILES)
    storage = plan.folder.resolve() / "ray"
    param_space, searcher, samples = None, None, 1
    timed = isinstance(plan.study, SearchStudy) and plan.study.minimise is not None
    retries = CLUSTER_RETRIES if machines.is_cluster else RETRIES
    group = {
        "workers": machines.workers,
        "cpus": given.cpus,
        "gpus": given.gpus,
        "storage": str(storage / "train"),
        "retries": retries,
    }
    fixed = {"options": options(given), "group": group, "timed": timed, "supplies": supplies}
    evaluates, asha = False, None
    if isinstance(left, StudySearch):
        searcher, samples = left, -1
        param_space = fixed
        asha = scheduler(plan, list(finished))
    else:
        # Also those that confirm a search: none of them is cut.
        param_space = {"trial": tune.grid_search(list(left)), **fixed}
        evaluates = left[0].model is not None
    in_group = machines.workers > 1 and not evaluates
    tuner = tune.Tuner(
        _placed(trainable, given, in_group=in_group),
        param_space=param_space,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=asha,
            num_samples=samples,
            max_concurrent_trials=given.concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(storage),
            callbacks=[_Watch(plan, supplies, tracker, progress, cuts=asha is not None, waits=in_group)],
            # For killed processes; an error that would repeat itself is not raised (see trial).
            failure_config=tune.FailureConfig(max_failures=retries),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def options(given: Allocation) -> dict[str, Any]:
    """How each worker runs: the arguments of ``RunOptions``."""
    if given.gpus:
        loaders = max(0, min(given.cpus - 1, 8))
        return {"device": "cuda", "threads": 1, "loader_workers": loaders, "gpu_share": min(given.gpus, 1.0)}
    return {"device": "cpu", "threads": 1, "loader_workers": 0}


def _placed(trainable: Any, given: Allocation, *, in_group: bool) -> Any:
    """What a trial runs, with what Tune is to reserve for it."""
    if not in_group:
        return tune.with_resources(trainable or train_here, {"CPU": given.cpus, "GPU": given.gpus})
    # The trial's actor only waits: on a full cluster a whole CPU for it would be one that a worker lacks,
    # and the group would never start. It stays on the head, which no spot market takes away.
    return tune.with_resources(trainable or train_in_group, {"CPU": 0, HEAD: 0.001})


class _Watch(tune.Callback):
    """Tells MLflow and the table what happens to each trial, and records how it ended."""

    def __init__(
        self,
        plan: Plan,
        supplies: Supplies,
        tracker: Tracker,
        progress: Progress,
        *,
        cuts: bool,
        waits: bool,
    ) -> None:
        self._plan = plan
        self._storage = supplies.storage
        self._cuts, self._waits = cuts, waits
        self._tracker = tracker
        self._progress = progress

    def __getstate__(self) -> dict[str, Any]:
        # Tune saves its callbacks to restore them; we never restore, and connections cannot be saved.
        return {}

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        mine: Trial = trial.config["trial"]
        self._tracker.start(mine)
        # A group of workers has no machines yet, and may wait long for them.
        self._progress.show(mine, "waiting" if self._waits else "running", read_record(mine.folder).metrics)

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        if "epoch" not in result:
            return
        mine: Trial = trial.config["trial"]
        metrics = _metrics(result)
        self._tracker.log(mine, metrics)
        self._progress.show(mine, "running", metrics)

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        mine: Trial = trial.config["trial"]
        unfetched = self._pull(mine)
        if unfetched is None and not read_record(mine.folder).is_terminal:
            if self._cuts:
                write_pruned(mine.folder)
            else:
                write_failed(mine.folder, "ended without result.json")
        self._settle(mine, unfetched)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        mine: Trial = trial.config["trial"]
        unfetched = self._pull(mine)
        write_failed(mine.folder, _reason(trial))
        self._settle(mine, unfetched)

    def _pull(self, mine: Trial) -> str | None:
        """Fetch what a node has left in the storage; why that cannot be done, if it cannot."""
        try:
            self._storage.download(mine.folder)
        except OSError as error:
            return f"ended, but cannot be fetched from --storage now: {error}; the next launch does"
        return None

    def _settle(self, mine: Trial, unfetched: str | None) -> None:
        if unfetched is None:
            # Else the storage may know better: a verdict of what is here must not replace its own.
            self._push(mine)
        self._tracker.finish(mine)
        found = read_record(mine.folder)
        status = found.status if unfetched is None else "failed"
        self._progress.show(mine, status, found.metrics, unfetched or found.error or "")

    def _push(self, mine: Trial) -> None:
        try:
            self._storage.upload(mine.folder, OUTCOME_FILES)
            # A search's record, should this machine be lost.
            self._storage.upload(self._plan.folder)
        except OSError as error:
            logger.warning("%s: cannot be put into --storage: %s", mine.name, error)


def _metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Our own figures among all that Tune adds."""
    return {key: float(value) for key, value in result.items() if key == "epoch" or key.startswith(FAMILIES)}


def _reason(trial: TuneTrial) -> str:
    """The last line of the trial's traceback: the error itself."""
    try:
        lines = Path(trial.error_file).read_text(encoding="utf-8").strip().splitlines()
    except (OSError, TypeError):
        return "ended without a message"
    return next((line.strip() for line in reversed(lines) if line.strip()), "ended without a message")[:2000]
