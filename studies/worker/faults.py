"""Whether a failure is the trial's or the machine's.

An error of the program, the data or the setting would only repeat itself: it is recorded and final. An error
of the machine is raised, so that Ray tries the trial again, there or elsewhere.
"""

from __future__ import annotations

import socket
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from drcnn.config import ConfigError
from drcnn.data.annotations import DataError
from studies.definition.plan import Trial
from studies.transfer.trial_folders import TrialFolders

__all__ = ["failures_recorded"]

# Torch raises these as plain RuntimeErrors.
GPU_FAULTS = ("CUDA error", "CUDA driver", "No CUDA GPUs", "CUDA unknown error")


@contextmanager
def failures_recorded(trial: Trial, folders: TrialFolders) -> Iterator[None]:
    """Record a failure that would only repeat itself; raise one that may go well the next time."""
    from drcnn.engine.errors import CheckpointError, TrainingDiverged

    try:
        yield
    except (TrainingDiverged, DataError, ConfigError, CheckpointError) as error:
        folders.fail(trial, _message(error))
    except OSError:
        # Disks and object stores fail for a while: Tune tries again, as it does after a killed process.
        raise
    except Exception as error:
        # Raised in any case, for Tune to drop this process, whose GPU may be in a bad state. The retry of a
        # recorded failure finds the record and returns at once.
        if _is_of_the_machine(error):
            raise RuntimeError(f"{type(error).__name__}: {error} (on {socket.gethostname()})") from error
        folders.fail(trial, _message(error), traceback.format_exc())
        raise


def _message(error: Exception) -> str:
    advice = ""
    if type(error).__name__ == "OutOfMemoryError":
        advice = " -- lower training.batch_size, or give the trial more of a GPU with --gpus-per-worker"
    return f"{type(error).__name__}: {error}{advice}"


def _is_of_the_machine(error: Exception) -> bool:
    """Whether another process or machine may do better: a GPU is broken, or a worker of the group is gone."""
    import torch
    import torch.distributed as dist

    from drcnn.engine.workers import world_size

    if isinstance(error, torch.OutOfMemoryError):
        return False
    message = str(error)
    if any(words in message for words in GPU_FAULTS):
        return True
    # gloo raises plain RuntimeErrors; only the source path in the message tells.
    is_of_group = isinstance(error, dist.DistError) or "gloo" in message or "NCCL" in message
    return world_size() > 1 and is_of_group
