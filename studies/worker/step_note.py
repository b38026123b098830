"""Where a running trial is in its epoch: a note in its folder, for the live table of a driver beside it."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

__all__ = ["StepNote", "epochs_begun"]

# No store uploads a dot file: it would be old when it arrives.
NAME = ".step"
SECONDS = 2.0  # between two notes


class StepNote:
    """Takes each step of ``fit`` and writes the newest down, now and then.

    Args:
        folder: of the trial.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._written = folder / NAME, 0.0

    def __call__(self, epoch: int, step: int, steps: int) -> None:
        """A step ended: of an epoch, both counted from 1, and of so many in it."""
        now = time.monotonic()
        if now - self._written >= SECONDS:
            self._written = now
            # On a full disk there is no note, and nothing else is lost.
            with suppress(OSError):
                self._path.write_text(f"{epoch} {step} {steps}", encoding="utf-8")


def epochs_begun(folder: Path, finished: float) -> float:
    """How many epochs of a trial are done, with the part of the one that runs.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     epochs_begun(Path(folder), 1)
    ...     StepNote(Path(folder))(2, 30, 40)
    ...     epochs_begun(Path(folder), 1), epochs_begun(Path(folder), 2)
    1
    (1.75, 2)

    Args:
        folder: of the trial.
        finished: the last epoch that has ended; a note that does not follow it is an old one.
    """
    try:
        epoch, step, steps = map(int, (folder / NAME).read_text(encoding="utf-8").split())
        begun = epoch - 1 + step / steps
    except (OSError, ValueError, ZeroDivisionError):
        return finished
    return begun if finished <= begun < finished + 1 else finished
