"""Signs of life of a process that works on a trial, for a companion process that ends it when they cease.

A process that hangs cannot tell: it may be stopped, or wait for ever for a batch or for another worker. So a
companion (``companion``) waits for marks in a pipe. When none comes for far longer than is usual, it keeps
the stacks of all threads in the trial's folder and kills the process; Ray then tries the trial again. It also
tells when the kernel has killed the process for want of memory.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from studies.transfer.trial_folders import KILL_NOTE
from studies.worker import companion

__all__ = ["Patience", "Watch", "reason_of_kill"]


@dataclass(frozen=True)
class Patience:
    """How long no mark may come, in seconds in which the companion itself ran: none of them while a laptop
    sleeps, fewer while a machine swaps.

    Attributes:
        within: between the batches of an epoch or an evaluation, at least; else ``companion.TIMES`` times the
            longest wait so far.
        between: before the first batch, and between the last and the next first: data, compilation, average
            precision, checkpoints.
    """

    within: float = 300.0
    between: float = 3600.0


class Watch:
    """Watches this process while it works on a trial; a context.

    Args:
        folder: of the trial, for the note that a kill leaves.
        attempt: of the trial in this launch, from 0.
        rank: of this worker.
        patience: how long to wait for marks.
    """

    def __init__(self, folder: Path, attempt: int, rank: int, patience: Patience) -> None:
        self._note = folder / KILL_NOTE.format(attempt=attempt, rank=rank)
        self._patience = patience

    def __enter__(self) -> Self:
        marks, self._marks = os.pipe()
        stacks, self._stacks = os.pipe()
        os.set_blocking(self._marks, False)
        self._companion = subprocess.Popen(
            [
                *(sys.executable, "-I", companion.__file__, str(os.getpid()), str(marks), str(stacks)),
                *(str(self._note), str(self._patience.within), str(self._patience.between)),
            ],
            pass_fds=(marks, stacks),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(marks)
        os.close(stacks)
        # Loader processes inherit it, and so show their stacks as well.
        faulthandler.register(signal.SIGUSR2, file=self._stacks, all_threads=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mark(companion.END)
        faulthandler.unregister(signal.SIGUSR2)
        os.close(self._marks)
        os.close(self._stacks)
        try:
            self._companion.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._companion.kill()  # it was stopped itself
            self._companion.wait()

    def beat(self, has_batch: bool) -> None:
        """Work goes on: a batch has arrived, or all batches have been worked on."""
        self._mark(companion.BATCH if has_batch else companion.BETWEEN)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Wait for others, as for a driver that takes a report, as long as it takes."""
        self._mark(companion.PAUSE)
        yield
        self._mark(companion.BETWEEN)

    def _mark(self, mark: bytes) -> None:
        # A companion that is gone, or that is stopped while the pipe is full, must not end the trial.
        with suppress(BrokenPipeError, BlockingIOError):
            os.write(self._marks, mark)


def reason_of_kill(folder: Path, attempt: int) -> str | None:
    """Why a trial's processes were killed in an attempt, in one line; none if no companion knows.

    Of several workers it is the one that held up the others.
    """
    notes = sorted(folder.glob(KILL_NOTE.format(attempt=attempt, rank="*")))
    reasons = [first for note in notes if (first := _first_line(note))]
    return min(reasons, key=lambda reason: companion.STOPPED not in reason, default=None)


def _first_line(note: Path) -> str:
    """Empty if it cannot be read, as a folder in its place."""
    try:
        return note.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    except OSError:
        return ""
