"""Whether trials fit into the part of a GPU that they are to get (``--gpus-per-worker 0.25``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from drcnn.engine.record import read_record
from studies.definition.errors import StudyError
from studies.definition.plan import Trial
from studies.resources.slots import Allocation
from studies.resources.throughput import measure_throughput, throughput_key
from studies.transfer.supplies import Supplies

__all__ = ["MemoryTrial", "check_gpu_memory", "try_on_node"]


@dataclass(frozen=True)
class MemoryTrial:
    """A few steps of a trial on a GPU.

    Attributes:
        fits: into the part that it was to get.
        needs: memory in GiB that it took; with the whole GPU, if it did not fit into its part.
        gpu: the GPU's name.
        memory: in GiB, all of the GPU's.
    """

    fits: bool
    needs: float
    gpu: str
    memory: float


def check_gpu_memory(trials: Sequence[Trial], given: Allocation, ask: Callable[[Trial], MemoryTrial]) -> None:
    """Try one trial of each kind for a few steps, before hours of others are begun.

    Args:
        trials: of the study; those that are finished or evaluate others are not tried.
        given: what each worker gets.
        ask: tries one on such a part of a GPU.

    Raises:
        StudyError: one does not fit; the message names it, and what it needs.
    """
    if not 0 < given.gpus < 1:
        return
    kinds: dict[object, Trial] = {}
    for trial in trials:
        if trial.model is None and not read_record(trial.folder).is_finished:
            kinds.setdefault(throughput_key(trial.config), trial)
    for trial in kinds.values():
        found = ask(trial)
        if not found.fits:
            part = f"{given.gpus * found.memory:.1f} of {found.memory:.1f} GiB"
            raise StudyError(
                f"--gpus-per-worker {given.gpus:g}: {trial.name} takes {found.needs:.1f} GiB and more, its "
                f"part of a {found.gpu} is {part}; give each worker more of a GPU, or lower "
                "training.batch_size"
            )


def try_on_node(given: Allocation, supplies: Supplies, options: dict[str, Any], trial: Trial) -> MemoryTrial:
    """Try a trial on a node that has the place for it, in a process that ends afterwards."""
    import ray

    supplies.offer([trial])
    task = ray.remote(num_cpus=given.cpus, num_gpus=given.gpus, max_calls=1, max_retries=2)(_try)
    found: MemoryTrial = ray.get(task.remote(trial, supplies, options))
    return found


def _try(trial: Trial, supplies: Supplies, options: dict[str, Any]) -> MemoryTrial:
    import torch

    from drcnn.engine.run_options import RunOptions

    supplies.bring(trial)
    properties = torch.cuda.get_device_properties(0)

    def steps(share: float) -> bool:
        RunOptions(**{**options, "gpu_share": share}).apply()
        try:
            measure_throughput(trial, "cuda")
        except torch.OutOfMemoryError:
            return False
        return True

    fits = steps(options["gpu_share"])
    if not fits:
        # What it would need: nothing else of this study runs yet.
        torch.cuda.empty_cache()
        steps(1.0)
    needs = torch.cuda.max_memory_reserved() / 2**30
    return MemoryTrial(fits, needs, properties.name, properties.total_memory / 2**30)
