"""The workers of one trial: the processes of ``torch.distributed``, or only this process without it.

All functions but the first two must be called by all workers at the same point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["distributed", "from_first", "gather", "rank", "sum_", "world_size"]

T = TypeVar("T")


def rank() -> int:
    """This worker's number, from 0; the first one writes the trial's files."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many workers the trial has."""
    return dist.get_world_size() if dist.is_initialized() else 1


def distributed(detector: nn.Module, device: torch.device) -> nn.Module:
    """Return a module whose gradients are the mean over the workers; alone it is the detector itself."""
    if world_size() == 1:
        return detector
    # Every head runs in every step, if need be on empty input, so no parameter is unused.
    return DistributedDataParallel(
        detector, device_ids=[device] if device.type == "cuda" else None, gradient_as_bucket_view=True
    )


def sum_(values: Tensor) -> Tensor:
    """Replace a tensor by its sum over the workers, in place, and return it."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def gather(value: T) -> list[T]:
    """Return every worker's value, by rank; values are pickled."""
    if world_size() == 1:
        return [value]
    values: list[T | None] = [None] * world_size()
    dist.all_gather_object(values, value)
    return cast(list[T], values)


def from_first(make: Callable[[], T]) -> T:
    """Call ``make`` on the first worker only, and return its result (pickled) on all."""
    result = [make() if rank() == 0 else None]
    if world_size() > 1:
        dist.broadcast_object_list(result)
    return cast(T, result[0])
