"""Whether trials fit into the memory that they get: a step of the largest batch, tried before they start."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from drcnn.engine.errors import lacks_host_memory
from drcnn.engine.record import read_record
from drcnn.engine.run_options import RunOptions
from studies.definition.errors import StudyError
from studies.definition.plan import Trial
from studies.resources.slots import Allocation
from studies.resources.throughput import cost_key, largest_batch, train_once
from studies.transfer.trial_folders import TrialFolders

__all__ = ["MemoryCheck", "check_memory", "try_on_node"]

GIB = 2**30
# Of small images, as those of the embedded digits, no step has needed so much: they are not tried.
SMALL_PIXELS, SMALL_GIB = 500_000, 3.0
# How often a size is tried whose process ends: something else may have ended it, or taken the memory.
TRIES = 2


@dataclass(frozen=True)
class MemoryCheck:
    """What a step of a trial has shown about its memory.

    Attributes:
        batch_size: one that fits, of all workers: the trial's own, or what its halves end at; 0 if it does
            not, at last if not even one image a worker does.
        part: GiB that a worker has.
        whole: of what, in words.
    """

    batch_size: int
    part: float
    whole: str


def check_memory(
    trials: Sequence[Trial], allocation: Allocation, attempt: Callable[[Trial], MemoryCheck]
) -> None:
    """Try a step of a trial for each combination of settings that decides about memory.

    Args:
        trials: of the study; those that have trained an epoch and evaluations are not tried.
        allocation: what each worker gets.
        attempt: tries one trial with it.

    Raises:
        StudyError: a trial does not fit; the message names it and a batch size that does.
    """
    representatives: dict[object, Trial] = {}
    for trial in trials:
        record = read_record(trial.folder)
        if not trial.is_evaluation and not record.is_terminal and record.epoch == 0:
            representatives.setdefault(cost_key(trial.config), trial)
    for trial in representatives.values():
        result, asked = attempt(trial), trial.config.training.batch_size
        if result.batch_size < asked:
            found = f"{result.batch_size} fits" if result.batch_size else "not even one image a worker fits"
            remedy = "give each worker more of a GPU" if allocation.gpus else "run fewer at once"
            option = "--gpus-per-worker" if allocation.gpus else "--max-concurrent"
            raise StudyError(
                f"{trial.name}: a step of training.batch_size={asked} does not fit into the memory of a "
                f"worker, {result.part:.1f} GiB of {result.whole}; {found}. Lower training.batch_size, or "
                f"{remedy} ({option})"
            )


def try_on_node(
    allocation: Allocation, folders: TrialFolders, options: RunOptions, workers: int, trial: Trial
) -> MemoryCheck:
    """Try a trial on any node with a free slot, in a process that ends afterwards and so frees its memory.

    Small images on a CPU are taken to fit, and so is a trial whose step fails for another reason. Where Ray,
    or the kernel, ends the process for want of memory, less is tried.
    """
    import ray

    from studies.resources.refused_nodes import result_of

    unknown = MemoryCheck(trial.config.training.batch_size, 0.0, "a machine")
    if not allocation.gpus and _is_small(trial, allocation, workers):
        return unknown
    folders.offer([trial])
    # Not tried again by Ray: one that is too large would be, for ever.
    task = ray.remote(num_cpus=allocation.cpus, num_gpus=allocation.gpus, max_calls=1, max_retries=0)(_try)
    too_large: MemoryCheck | None = None
    size = trial.config.training.batch_size
    while size >= workers:
        for _ in range(TRIES):
            try:
                tried = task.remote(trial, folders, options, workers, allocation, size)
                check: MemoryCheck = result_of(tried, "to try whether a step fits into its memory")
            except ray.exceptions.OutOfMemoryError:
                part = _share_of_host(allocation, workers)
                too_large = MemoryCheck(0, part, "what is free, on a node that was short of it")
            except ray.exceptions.WorkerCrashedError:
                continue  # killed by the kernel, if less goes well
            except ray.exceptions.RayError:
                return unknown  # whatever it is, the trial itself shows it, is tried again or recorded
            else:
                if check.batch_size:
                    return check
                too_large = check
                break
        size = size // 2 // workers * workers  # the half, the same for each worker
    # If all that is known is that it crashes, it does so with any batch.
    return too_large or unknown


def _is_small(trial: Trial, allocation: Allocation, workers: int) -> bool:
    if _share_of_host(allocation, workers) < SMALL_GIB:
        return False
    pixels = largest_batch(trial, trial.config.training.batch_size, workers)[0]
    return pixels < SMALL_PIXELS


def _try(
    trial: Trial, folders: TrialFolders, options: RunOptions, workers: int, allocation: Allocation, size: int
) -> MemoryCheck:
    """Try a step of this size; a smaller one in another process: this one keeps pieces of what failed."""
    import torch

    folders.prepare_data(trial)
    options.apply()
    if options.device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        memory = gpu.total_memory / GIB
        part, whole = options.gpu_share * memory, f"the {memory:.1f} GiB of a {gpu.name}"
    else:
        part, whole = _share_of_host(allocation, workers), "what is free here, shared by all that run at once"
        # Else the kernel would kill, and not always the process that asks for too much.
        resource.setrlimit(resource.RLIMIT_DATA, (_data_bytes() + int(part * GIB), resource.RLIM_INFINITY))
    return MemoryCheck(size if _fits(trial, size, workers, options.device) else 0, part, whole)


def _fits(trial: Trial, batch_size: int, workers: int, device: str) -> bool:
    import torch

    try:
        train_once(trial, batch_size, workers, device)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, torch.OutOfMemoryError) or lacks_host_memory(error):
            return False
        raise
    return True


def _share_of_host(allocation: Allocation, workers: int) -> float:
    """GiB that a worker has here if all that run at once take the same; a whole slot's if that is unknown."""
    here = max(1, (os.cpu_count() or 1) // max(1, allocation.cpus))
    return _available() / min(here, allocation.concurrent * workers) / GIB


def _available() -> int:
    """Bytes that are free on this machine, or left to this container."""
    found = []
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) << 10)
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        found.append(limit - int((group / "memory.current").read_text(encoding="ascii")))
    return min(found, default=1 << 50)


def _data_bytes() -> int:
    """What counts against RLIMIT_DATA now."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmData:")).split()[1]) << 10
    return 0
