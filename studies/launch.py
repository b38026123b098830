"""Runs trials with Ray Tune: starts and stops Ray, decides how many run at once, and watches them.

Ray's own checkpoints and ``Tuner.restore`` are not used. A trial's folder is the record (see ``trials``): a
launch hands Tune only the trials that are left, and what Tune itself writes is thrown away.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.util import get_node_ip_address

from studies.progress import Progress
from studies.search import StudySearch, scheduler
from studies.study import SearchStudy, StudyError
from studies.tracking import Tracker
from studies.trial import train_here, train_in_group
from studies.trials import Plan, Trial, clear_verdict, outcome, write_verdict

__all__ = ["Machines", "Share", "connect", "run", "share"]

CHECKOUT = Path(__file__).resolve().parents[1]
FAMILIES = ("val/", "train/", "perf/")

# Set before Ray starts; its processes inherit them.
ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # The first Ctrl-C is ours: it closes the MLflow runs.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Ray gives its workers nice 15: on a busy machine they starve.
    "RAY_worker_niceness": "0",
    # The default of 2 s is waited at every report and twice at the end of each trial.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
# Only for a Ray of our own; a cluster has its own token and spot machines to watch.
LOCAL_ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}


@dataclass(frozen=True)
class Machines:
    """What the command line says about where and how widely to run."""

    address: str = "local"
    workers: int = 1
    gpus_per_worker: float | None = None
    max_concurrent: int | None = None


@dataclass(frozen=True)
class Share:
    """What one worker gets, and how many trials run at once."""

    concurrent: int
    cpus: int
    gpus: float


def share(machines: Machines, cpus: float, gpus: float) -> Share:
    """Divide the machine: on a CPU one core a worker, else the GPU's part and its cores.

    Raises:
        StudyError: not even one trial fits.
    """
    each = machines.gpus_per_worker
    if each is None:
        each = 1.0 if gpus else 0.0
    fit = int((gpus / each if each else cpus) / machines.workers + 1e-9)
    if fit < 1:
        needs = f"{machines.workers * each:g} GPUs" if each else f"{machines.workers} CPUs"
        raise StudyError(
            f"--workers-per-trial {machines.workers} needs {needs}; there are {cpus:g} CPUs and {gpus:g} GPUs"
        )
    concurrent = min(fit, machines.max_concurrent or fit)
    return Share(concurrent, max(1, int(cpus / (fit * machines.workers))) if each else 1, each)


@contextmanager
def connect(machines: Machines) -> Iterator[Share]:
    """Start a Ray of our own or join a cluster; leave it in the end. One that the caller started is kept."""
    if ray.is_initialized():
        yield _given(machines)
        return
    os.environ.update(ENVIRONMENT)
    # What matters is in the table; a failed trial's traceback is in its error.json.
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if machines.address == "local":
        os.environ.update(LOCAL_ENVIRONMENT)
        # Workers import this checkout, wherever the command was started.
        os.environ["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")])
        )
        port = _free_port()
        os.environ["RAY_GCS_SERVER_PORT"] = str(port)
        own = {"RAY_ADDRESS": f"{get_node_ip_address()}:{port}"}  # type: ignore[no-untyped-call]
        ray.init(
            address="local",
            # The dashboard is what Ray Train's cleaner asks which trials still live; Tune alone does without.
            include_dashboard=machines.workers > 1,
            object_store_memory=200 << 20,
            # With a second Ray on this machine the cleaner would ask the wrong one.
            runtime_env={"env_vars": own} if machines.workers > 1 else None,
            **quiet,
        )
    else:
        ray.init(address=machines.address, **quiet)
    try:
        yield _given(machines)
    finally:
        ray.shutdown()


def _given(machines: Machines) -> Share:
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return share(machines, resources.get("CPU", 0), resources.get("GPU", 0))


def run(
    plan: Plan,
    left: Sequence[Trial] | StudySearch,
    finished: Sequence[Trial],
    *,
    machines: Machines,
    given: Share,
    tracker: Tracker,
    progress: Progress,
) -> None:
    """Train or evaluate what is left; returns when every trial ended, whichever way.

    Args:
        plan: the study.
        left: its trials, of one sort: all train, or all evaluate; or a search that gives one after another.
        finished: trials that a search's early stopping knows already.
        machines: what the command line says.
        given: what each worker gets.
        tracker: told what happens, like ``progress``.
        progress: the live table.
    """
    for trial in left.trials() if isinstance(left, StudySearch) else left:
        if outcome(trial.folder).status == "failed" or not isinstance(left, StudySearch):
            clear_verdict(trial.folder)
    storage = plan.folder.resolve() / "ray"
    param_space, searcher, samples = None, None, 1
    timed = isinstance(plan.study, SearchStudy) and plan.study.minimise is not None
    fixed = {"options": options(given), "group": _group(machines, given, storage), "timed": timed}
    evaluates, asha = False, None
    if isinstance(left, StudySearch):
        searcher, samples = left, -1
        param_space = fixed
        asha = scheduler(plan, list(finished))
    else:
        # Also those that confirm a search: none of them is cut.
        param_space = {"trial": tune.grid_search(list(left)), **fixed}
        evaluates = left[0].model is not None
    tuner = tune.Tuner(
        _trainable(machines, given, in_actor=evaluates),
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
            callbacks=[_Watch(tracker, progress, cuts=asha is not None)],
            # For killed processes; an error that would repeat itself is not raised (see trial).
            failure_config=tune.FailureConfig(max_failures=2),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def options(given: Share) -> dict[str, Any]:
    """How each worker runs: the arguments of ``RunOptions``."""
    if given.gpus:
        return {"device": "cuda", "threads": 1, "loader_workers": min(given.cpus - 1, 8)}
    return {"device": "cpu", "threads": 1, "loader_workers": 0}


def _group(machines: Machines, given: Share, storage: Path) -> dict[str, Any]:
    return {
        "workers": machines.workers,
        "cpus": given.cpus,
        "gpus": given.gpus,
        "storage": str(storage / "train"),
    }


def _trainable(machines: Machines, given: Share, *, in_actor: bool) -> Any:
    if machines.workers == 1 or in_actor:
        return tune.with_resources(train_here, {"CPU": given.cpus, "GPU": given.gpus})
    # The trial's actor only waits: on a full cluster a whole CPU for it would be one that a worker lacks,
    # and the group would never start. It stays on the head, which no spot market takes away.
    return tune.with_resources(train_in_group, {"CPU": 0, "node:__internal_head__": 0.001})


class _Watch(tune.Callback):
    """Tells MLflow and the table what happens to each trial, and records how it ended."""

    def __init__(self, tracker: Tracker, progress: Progress, *, cuts: bool) -> None:
        self._cuts = cuts
        self._tracker = tracker
        self._progress = progress

    def __getstate__(self) -> dict[str, Any]:
        # Tune saves its callbacks to restore them; we never restore, and connections cannot be saved.
        return {}

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        mine: Trial = trial.config["trial"]
        self._tracker.start(mine)
        self._progress.show(mine, "running", outcome(mine.folder).metrics)

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
        if outcome(mine.folder).status == "unfinished":
            if self._cuts:
                write_verdict(mine.folder, "pruned")
            else:
                write_verdict(mine.folder, "failed", "ended without result.json")
        self._settle(mine)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        mine: Trial = trial.config["trial"]
        write_verdict(mine.folder, "failed", _reason(trial))
        self._settle(mine)

    def _settle(self, mine: Trial) -> None:
        self._tracker.finish(mine)
        found = outcome(mine.folder)
        self._progress.show(mine, found.status, found.metrics, found.error or "")


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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
