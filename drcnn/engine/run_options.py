"""How a trial runs (device, threads, loader processes), and whom it tells. Loads torch only when applied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Report", "RunOptions", "Say", "Step"]

# Takes an epoch's metrics.
Report = Callable[[dict[str, float]], None]
# Takes a line about what a person may not expect.
Say = Callable[[str], None]
# Takes an epoch and a step, both counted from 1, and the steps of an epoch.
Step = Callable[[int, int, int], None]

# CUDA takes this for each process before any tensor; the limit on tensors does not count it.
CONTEXT_BYTES = 600 << 20


def _unheard(has_batch: bool) -> None:
    """Nobody watches."""


def _stays() -> bool:
    """Nobody takes this machine away."""
    return False


@dataclass(frozen=True)
class RunOptions:
    """How a trial runs. Never part of its identity: results do not depend on it.

    Attributes:
        device: 'cpu' or 'cuda'.
        threads: of torch on the CPU; 0 leaves torch's own choice.
        loader_workers: processes that decode images.
        gpu_share: of the GPU's memory, the part that this process may take; other trials have the rest.
        commit: of the code, to be recorded with the result; empty if it is not known.
        beat: told of every batch (True) and of the end of an epoch's or an evaluation's (False).
        leaves: asked every few steps whether this machine has notice to go: then training is saved and ends.
    """

    device: str = "cpu"
    threads: int = 0
    loader_workers: int = 0
    gpu_share: float = 1.0
    commit: str = ""
    beat: Callable[[bool], None] = field(default=_unheard, compare=False, repr=False)
    leaves: Callable[[], bool] = field(default=_stays, compare=False, repr=False)

    @property
    def gpus(self) -> float:
        """How much of a GPU each worker has."""
        return self.gpu_share if self.device == "cuda" else 0.0

    def apply(self) -> None:
        """Set torch's threads and share of the GPU's memory, for the whole process."""
        import torch

        if self.threads:
            torch.set_num_threads(self.threads)
        if self.device == "cuda":
            whole = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
            own = CONTEXT_BYTES / whole if self.gpu_share < 1 else 0.0
            torch.cuda.set_per_process_memory_fraction(max(0.0, self.gpu_share - own))
