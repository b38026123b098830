"""An epoch that is not at its end: what a checkpoint keeps of it, and when one is written within it.

The batches of an epoch depend on seed and epoch alone, so training goes on at any of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from drcnn.engine.checkpoint import TrainingState
from drcnn.engine.workers import gather, rank, sum_, world_size

__all__ = ["PartialEpoch", "SaveTimes"]


class PartialEpoch:
    """Adds up an epoch's losses on this worker, and its seconds, over all attempts at it.

    Args:
        state: of the checkpoint; its ``step`` tells where in the epoch training goes on.
        device: of the losses.

    Attributes:
        sums: of each loss over the steps so far; float32[].
    """

    def __init__(self, state: TrainingState, device: torch.device) -> None:
        self._begun, self._earlier = time.perf_counter(), state.seconds
        self.sums: dict[str, Tensor] = {}
        for number, sums in enumerate(state.sums):
            # With as many workers as before each goes on with its own.
            if number == rank() or (len(state.sums) != world_size() and rank() == 0):
                self.add({name: torch.tensor(value, device=device) for name, value in sums.items()})
            elif not self.sums:
                self.add({name: torch.tensor(0.0, device=device) for name in sums})

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Add the losses of a step; waits for no device."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().float()

    def seconds(self) -> float:
        """How long the epoch has been trained."""
        return self._earlier + time.perf_counter() - self._begun

    def means(self, steps: int) -> dict[str, float]:
        """The mean of each loss over ``steps`` steps and all workers."""
        totals = sum_(torch.stack(list(self.sums.values()))) / (steps * world_size())
        return dict(zip(self.sums, totals.tolist(), strict=True))

    def note(self, state: TrainingState, step: int) -> None:
        """Write down that ``step`` steps of the epoch are done; called by all workers."""
        names = list(self.sums)
        values = gather(torch.stack(list(self.sums.values())).tolist())
        # A float32 survives as JSON: it is a float64 as well.
        state.sums = [dict(zip(names, each, strict=True)) for each in values]
        state.step, state.seconds = step, self.seconds()


class SaveTimes:
    """When a checkpoint is due within an epoch.

    Args:
        minutes: from one checkpoint to the next; none: only on notice.
        leaves: whether this worker's machine has notice to go.
        device: over which workers talk.
    """

    def __init__(self, minutes: float | None, leaves: Callable[[], bool], device: torch.device) -> None:
        self._minutes, self._leaves, self._device = minutes, leaves, device
        self.saved()

    def saved(self) -> None:
        """A checkpoint is written."""
        self._saved = time.monotonic()

    def ask(self) -> tuple[bool, bool]:
        """Whether to save now, and whether to end then; the same on all workers, which call it together."""
        is_due = (
            rank() == 0 and self._minutes is not None and time.monotonic() - self._saved >= 60 * self._minutes
        )
        answers = [is_due, self._leaves()]
        if world_size() > 1:
            answers = [
                count > 0 for count in sum_(torch.tensor(answers, device=self._device).float()).tolist()
            ]
        is_due, ends = answers
        return is_due or ends, ends
