"""Whether a failure is the trial's or the machine's.

An error of the program, the data or the setting would only repeat itself: it is recorded and final. All else
is the machine's, also when in doubt: it is raised, and Ray tries the trial again, there or elsewhere.
"""

from __future__ import annotations

import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from drcnn.config import ConfigError
from drcnn.data.annotations import DataError
from drcnn.engine.errors import CheckpointError, TrainingDiverged, TrainingInterrupted, lacks_host_memory
from drcnn.files import waiting_for_space
from studies.definition.plan import Trial
from studies.transfer.trial_folders import TrialFolders
from studies.worker.notice import NodeTakenAway
from studies.worker.space_note import SpaceNote

__all__ = ["failures_recorded", "wait_before_attempt"]

# Python's errors of a program. Not their subclasses: torch's and pyarrow's are often the machine's.
PROGRAM_ERRORS = (
    *(AssertionError, AttributeError, IndexError, KeyError, NameError, NotImplementedError, OverflowError),
    *(RecursionError, TypeError, UnboundLocalError, ValueError, ZeroDivisionError),
)
# What torch says, in plain RuntimeErrors, of tensors that do not go together. A device-side assert is CUDA's
# word for an index out of range: a label that is no class, as a rule.
PROGRAM_WORDS = (
    "device-side assert",
    "must match",
    "size mismatch",
    "cannot be multiplied",
    "is invalid for input of size",
    "not implemented for",
    "expected scalar type",
    "Expected all tensors to be on the same device",
    "modified by an inplace operation",
    "does not require grad",
    "Expected to have finished reduction",
)
GROUP_WORDS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
# Seconds before the second attempt; each further one waits twice as long.
FIRST_WAIT, LONGEST_WAIT = 2.0, 120.0


@contextmanager
def failures_recorded(trial: Trial, folders: TrialFolders) -> Iterator[None]:
    """Record a failure that would only repeat itself; raise one that may go well the next time.

    Raises:
        NodeTakenAway: the node goes away, and what is trained is saved.
        RuntimeError: a fault of the machine; the message ends with the node, unless another one is to blame.
        Exception: an error of the program, once it is recorded: Ray then drops this process, whose GPU may be
            in a bad state. The next attempt finds the record and returns at once.
    """
    try:
        yield
    except (TrainingDiverged, DataError, ConfigError, CheckpointError) as error:
        _fail(trial, folders, _message(error))
    except TrainingInterrupted as error:
        raise NodeTakenAway(str(error)) from error
    except Exception as error:
        if not _would_repeat_itself(error):
            raise RuntimeError(f"{_message(error)}{_place(error)}") from error
        _fail(trial, folders, _message(error), traceback.format_exc())
        raise


def _fail(trial: Trial, folders: TrialFolders, *what: str) -> None:
    waiting_for_space(partial(folders.fail, trial, *what), SpaceNote(trial.folder))


def wait_before_attempt(failures: int, sleep: Callable[[float], None] = time.sleep) -> None:
    """Give a machine time to recover before an attempt, after so many that failed."""
    if failures > 0:
        sleep(min(FIRST_WAIT * 2 ** (failures - 1), LONGEST_WAIT))


def _would_repeat_itself(error: Exception) -> bool:
    """Whether it is the program's, the data's or the setting's, on any machine."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return True
    says_so = isinstance(error, RuntimeError) and any(words in str(error) for words in PROGRAM_WORDS)
    return says_so or type(error) in PROGRAM_ERRORS


def _message(error: Exception) -> str:
    import torch

    text, advice = f"{type(error).__name__}: {error}", ""
    if isinstance(error, torch.OutOfMemoryError):
        advice = " -- lower training.batch_size, or give the trial more of a GPU with --gpus-per-worker"
    elif "device-side assert" in text:
        advice = " -- a label or an index is out of its range; --gpus-per-worker 0 shows where"
    elif lacks_host_memory(error):
        advice = " -- the machine's memory is used up: fewer trials at once (--max-concurrent) need less"
    elif "shared memory" in text or "Bus error" in text:
        advice = " -- loader processes need more of /dev/shm (docker run --shm-size)"
    return f"{text}{advice}"


def _place(error: Exception) -> str:
    """Where it happened. Whom the group has lost is elsewhere, and nothing is wrong with this node."""
    import torch.distributed as dist
    from ray.util import get_node_ip_address

    if isinstance(error, dist.DistError) or any(words in str(error) for words in GROUP_WORDS):
        return f" (seen on {socket.gethostname()})"
    return f" (on node {socket.gethostname()}, {get_node_ip_address()})"  # type: ignore[no-untyped-call]
