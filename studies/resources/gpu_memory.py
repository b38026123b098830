"""Whether trials fit into their part of a GPU (``--gpus-per-worker 0.25``), tried before the study starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from drcnn.engine.record import read_record
from drcnn.engine.run_options import RunOptions
from studies.definition.errors import StudyError
from studies.definition.plan import Trial
from studies.resources.slots import Allocation
from studies.resources.throughput import cost_key, measure_image_time
from studies.transfer.trial_folders import TrialFolders

__all__ = ["MemoryCheck", "check_gpu_memory", "try_on_node"]


@dataclass(frozen=True)
class MemoryCheck:
    """What a few steps of a trial have shown about its memory.

    Attributes:
        fits: whether its part of the GPU is enough.
        needed: GiB that it took; if it does not fit, GiB that it took with the whole GPU.
        gpu: the GPU's name.
        memory: GiB of the whole GPU.
    """

    fits: bool
    needed: float
    gpu: str
    memory: float


def check_gpu_memory(
    trials: Sequence[Trial], allocation: Allocation, attempt: Callable[[Trial], MemoryCheck]
) -> None:
    """Try a few steps of a trial for each combination of settings that decides about memory.

    Args:
        trials: of the study; finished ones and evaluations are not tried.
        allocation: what each worker gets.
        attempt: tries one trial on such a part of a GPU.

    Raises:
        StudyError: a trial does not fit; the message names it and the memory that it needs.
    """
    if not 0 < allocation.gpus < 1:
        return
    representatives: dict[object, Trial] = {}
    for trial in trials:
        if not trial.is_evaluation and not read_record(trial.folder).is_finished:
            representatives.setdefault(cost_key(trial.config), trial)
    for trial in representatives.values():
        result = attempt(trial)
        if not result.fits:
            part = f"{allocation.gpus * result.memory:.1f} of {result.memory:.1f} GiB"
            raise StudyError(
                f"--gpus-per-worker {allocation.gpus:g}: {trial.name} takes {result.needed:.1f} GiB or more, "
                f"its part of a {result.gpu} is {part}; give each worker more of a GPU, or lower "
                "training.batch_size"
            )


def try_on_node(
    allocation: Allocation, folders: TrialFolders, options: RunOptions, trial: Trial
) -> MemoryCheck:
    """Try a trial on any node with a free slot, in a process that ends afterwards and so frees the GPU."""
    import ray

    folders.offer([trial])
    task = ray.remote(num_cpus=allocation.cpus, num_gpus=allocation.gpus, max_calls=1, max_retries=2)(_try)
    result: MemoryCheck = ray.get(task.remote(trial, folders, options))
    return result


def _try(trial: Trial, folders: TrialFolders, options: RunOptions) -> MemoryCheck:
    import torch

    folders.prepare_node(trial)

    def fits(gpu_share: float) -> bool:
        replace(options, gpu_share=gpu_share).apply()
        try:
            measure_image_time(trial, "cuda")
        except torch.OutOfMemoryError:
            return False
        return True

    does_fit = fits(options.gpu_share)
    if not does_fit:
        # The whole GPU is free to find out what it needs: nothing else of this study runs yet.
        torch.cuda.empty_cache()
        fits(1.0)
    gpu, needed = torch.cuda.get_device_properties(0), torch.cuda.max_memory_reserved() / 2**30
    return MemoryCheck(does_fit, needed, gpu.name, gpu.total_memory / 2**30)
