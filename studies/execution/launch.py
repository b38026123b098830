"""One launch of a study: checks its request, prepares data and machines, and starts the run (``study_run``).

Nothing is written before the whole request is known to be good.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from drcnn.backbone_weights import WEIGHT_NAMES
from drcnn.engine.metrics import counted_detections
from drcnn.engine.record import read_record
from drcnn.files import DiskFullError
from studies.definition.errors import StudyError, one_line
from studies.definition.overrides import Overrides
from studies.definition.plan import Plan, Trial, expand, search_points, trained_models
from studies.definition.request import Request, resolve
from studies.definition.study import SearchStudy
from studies.execution.study_run import StudyRun
from studies.record.launch_request import REQUEST, keep_request, was_launched
from studies.record.output_folder import prepared_inputs, removed_after_bad_input, study_lock
from studies.record.tracking.addresses import redacted
from studies.report.console import StudyConsole, say_phase
from studies.transfer.datasets import download_datasets, localise
from studies.transfer.store import open_store
from studies.transfer.trial_folders import TrialFolders

if TYPE_CHECKING:
    from studies.resources.slots import Allocation

__all__ = ["execute"]


def execute(request: Request, name: str, overrides: Overrides) -> int:
    """Run a study, or go on with it.

    Args:
        request: what the command line asks for.
        name, overrides: what ``resolve`` made of it.

    Returns:
        0 if all trials finished or were pruned, 1 if some failed.

    Raises:
        StudyError, ConfigError, DataError, FetchError: the request cannot be met; nothing was written.
        KeyboardInterrupt: a signal came; the message says what is kept.
    """
    began, console = time.monotonic(), StudyConsole()
    _check_local_gpus(request)
    is_kept = request.machines.is_cluster or not request.dry_run
    with (
        removed_after_bad_input(request.output),
        prepared_inputs(request.output, is_kept=is_kept) as inputs,
    ):
        output = request.output.resolve()
        source, datasets = localise(request.source, output / "data")
        if datasets:
            download_datasets(datasets)
            overrides = resolve(replace(request, source=source))[1]
        folders = TrialFolders(open_store(request.storage, output), datasets)
        plan = Plan(name, overrides, output, inputs, request.margin, request.price)
        is_search = isinstance(plan.study, SearchStudy)
        say_phase("reading the data")
        trials = search_points(plan) if is_search else expand(plan, request.listed_seeds)
        lines = trials[0].data.said_at_start(trials[0].config.data.source)
        lines += filter(None, dict.fromkeys(counted_detections(trial.config) for trial in trials))
        for line in lines:
            console.out(line, highlight=False)
        with _search_record(plan) if is_search else nullcontext():
            if request.dry_run:
                from studies.execution.dry_run import print_preview

                print_preview(plan, trials, request, folders)
                return 0
            if not request.machines.is_cluster:
                say_phase("reading the weights")
                _require_starts(trials)
            return _run(plan, request, trials, folders, console, began)


def _run(
    plan: Plan, request: Request, trials: list[Trial], folders: TrialFolders, console: Console, began: float
) -> int:
    with (
        study_lock(plan),
        _store_claimed(plan, folders),
        _cluster(plan, request, folders, trials, console) as allocation,
    ):
        _adopt(plan, folders)
        keep_request(plan, request)
        return StudyRun(plan, request, trials, console, folders, allocation, began).run()


def _adopt(plan: Plan, folders: TrialFolders) -> None:
    """Bring what is here into the store, and on a new head here what launches from another one left there."""
    try:
        folders.store.adopt()
        if not was_launched(plan.folder):
            folders.store.download(plan.folder)
    except DiskFullError:
        raise
    except OSError as error:
        raise StudyError(f"--storage: cannot be used: {one_line(redacted(str(error)))}") from None


def _require_starts(trials: Sequence[Trial]) -> None:
    """Open what training starts from, before trials take time; a cluster's nodes look themselves."""
    from drcnn.engine.required_start import ARCHITECTURE, require_start

    left = [trial for trial in (*trained_models(trials), *trials) if not trial.is_evaluation]
    configs = [trial.config for trial in left if not read_record(trial.folder).is_terminal]
    # Many trials start alike.
    starts = {
        (c.training.init, *(getattr(c.detector, key) for key in ("weights", *ARCHITECTURE))): c
        for c in configs
    }
    try:
        for config in starts.values():
            require_start(config)
    except OSError as error:
        raise StudyError(one_line(error)) from None


@contextmanager
def _store_claimed(plan: Plan, folders: TrialFolders) -> Iterator[None]:
    """Keep other machines from launching the study with the same store."""
    with ExitStack() as stack:
        try:
            stack.enter_context(folders.store.claim(plan.folder, plan.name, waits=False))
        except OSError as error:
            raise StudyError(f"--storage: cannot be used: {one_line(redacted(str(error)))}") from None
        yield


def _search_record(plan: Plan) -> AbstractContextManager[None]:
    from studies.search.optuna_record import storage_faults_named

    return storage_faults_named(plan)


@contextmanager
def _cluster(
    plan: Plan, request: Request, folders: TrialFolders, trials: Sequence[Trial], console: Console
) -> Iterator[Allocation | None]:
    """Join the cluster that is asked for and check its nodes; a local Ray starts when it is needed."""
    if not request.machines.is_cluster:
        yield None
        return
    from studies.resources.connection import connect
    from studies.resources.node_probe import NodeRequirements
    from studies.resources.nodes import Examination, check_nodes

    configs = [trial.config for trial in trials]
    starts = {c.detector.weights if c.training.init == "none" else c.training.init for c in configs}
    weights = starts - {*WEIGHT_NAMES, "coco"}
    with connect(request.machines) as allocation:
        folders.offer(trials[:1])
        requirements = NodeRequirements(
            request.output.resolve(),
            # Without a store all nodes must share OUTPUT: they look for a file that the driver puts there.
            "" if request.storage else ".shared",
            folders.store,
            folders.datasets,
            trials[0].data,
            tuple(map(Path, sorted(weights))),
        )
        known = check_nodes(requirements, console)
        if requirements.token:
            # There as soon as trials are, and as long.
            requirements = replace(requirements, token=f"{plan.folder.name}/{REQUEST}")
        yield replace(allocation, examination=Examination(requirements, known, folders.versions))


def _check_local_gpus(request: Request) -> None:
    if request.machines.is_cluster or not request.gpus_per_worker:
        return
    import torch

    needed, gpus = request.workers * request.gpus_per_worker, torch.cuda.device_count()
    if needed > gpus:
        raise StudyError(
            f"--gpus-per-worker {request.gpus_per_worker:g}: a trial needs {needed:g} GPUs, "
            f"this machine has {gpus}"
        )
