"""What a run can end with, in a module that loads no torch: a command tells of bad input in no time."""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "DamagedCheckpointError",
    "TrainingDiverged",
    "TrainingInterrupted",
    "lacks_host_memory",
]

# Torch's allocator and oneDNN raise plain RuntimeErrors.
HOST_MEMORY_WORDS = ("DefaultCPUAllocator", "could not create a primitive", "could not create a memory")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one line and names the file."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint that does not hold what was written to it, or no checkpoint at all."""


class TrainingDiverged(RuntimeError):
    """The loss became infinite or NaN; the message says which one, in which epoch and step."""


class TrainingInterrupted(RuntimeError):
    """A machine has notice to go; the message says up to which epoch and step the training is saved."""


def lacks_host_memory(error: Exception) -> bool:
    """Whether an error says that the machine's own memory, not a GPU's, is used up."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in HOST_MEMORY_WORDS)
