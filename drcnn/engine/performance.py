"""What an epoch took: figures beside its metrics."""

from __future__ import annotations

import resource

import torch

from drcnn.engine.run_options import RunOptions
from drcnn.engine.workers import world_size

__all__ = ["performance", "reset_peak_memory"]


def reset_peak_memory(device: torch.device) -> None:
    """Forget the peak of an earlier trial in this process; CUDA must be initialised."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def performance(images: int, seconds: float, eval_seconds: float, options: RunOptions) -> dict[str, float]:
    """Return the figures of an epoch.

    Args:
        images: that were trained on, over all workers.
        seconds: of training.
        eval_seconds: of evaluation.
        options: how this worker runs.
    """
    return {
        "perf/images_per_s": images / seconds,
        "perf/epoch_seconds": seconds,
        "perf/eval_seconds": eval_seconds,
        "perf/peak_memory_gib": _peak_memory(torch.device(options.device)),
        "perf/workers": float(world_size()),
        "perf/gpus": world_size() * options.gpus,
    }


def _peak_memory(device: torch.device) -> float:
    """GiB: on a GPU the peak of this trial's tensors, on a CPU that of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
