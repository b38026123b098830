"""What Ray is handed: one typed job for all trials of a launch, beside the trial itself."""

from __future__ import annotations

from dataclasses import dataclass

from drcnn.engine.run_options import RunOptions
from drcnn.files import waiting_for_space
from studies.definition.plan import Trial
from studies.record import provenance
from studies.resources.nodes import Examination
from studies.resources.slots import Allocation
from studies.transfer.trial_folders import TrialFolders
from studies.worker.space_note import SpaceNote
from studies.worker.watch import Patience

__all__ = ["Job", "WorkerGroup", "run_options"]

PATIENCE = Patience()
# Loader processes of a worker with a GPU, at most.
MOST_LOADERS = 8


@dataclass(frozen=True)
class WorkerGroup:
    """The Ray Train workers of one trial.

    Attributes:
        workers: how many.
        cpus: of each.
        gpus: of each.
        storage: absolute path where Ray Train keeps its own files.
        packs: whether all are on one node.
    """

    workers: int
    cpus: int
    gpus: float
    storage: str
    packs: bool = False


@dataclass(frozen=True)
class Job:
    """How every trial of a launch runs.

    Attributes:
        folders: where a trial's files and data come from and go to.
        options: of each worker.
        group: the workers of a trial that has several.
        measures_latency: whether a finished trial's inference is timed as well.
        patience: how long a trial may show no sign of life.
        examination: of nodes that join a cluster while the launch runs.
    """

    folders: TrialFolders
    options: RunOptions
    group: WorkerGroup
    measures_latency: bool
    patience: Patience = PATIENCE
    examination: Examination | None = None

    def prepare_node(self, trial: Trial, attempt: int) -> None:
        """Make sure that this node is fit, and bring here all that a trial needs, once there is space for it.

        Args:
            trial: to work on; the caller holds its lock.
            attempt: of this launch, from 0: what kills said in earlier launches is deleted before the first.

        Raises:
            OSError: it is not, or something cannot be had here.
        """
        if attempt == 0:
            self.folders.forget_kills(trial)

        def prepare() -> None:
            if self.examination is not None:
                self.examination.require_fit()
            self.folders.prepare_node(trial)

        waiting_for_space(prepare, SpaceNote(trial.folder))


def run_options(allocation: Allocation) -> RunOptions:
    """How each worker runs on what it is allocated."""
    commit = provenance.commit()
    if not allocation.gpus:
        return RunOptions(device="cpu", threads=1, commit=commit)
    loaders = max(0, min(allocation.cpus - 1, MOST_LOADERS))
    share = min(allocation.gpus, 1.0)
    return RunOptions(device="cuda", threads=1, loader_workers=loaders, gpu_share=share, commit=commit)
