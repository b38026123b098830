"""That a trial waits for space on a full disk: a note in its folder, for the driver to say on the terminal.

The note is an empty file: on most file systems one can be made on a full disk. A driver that shares no folder
with the trial's node sees none; it says so if the disk stays full.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

__all__ = ["SpaceNote", "take_space_note"]

# No store uploads a dot file.
NAME = ".waits-for-space"


class SpaceNote:
    """Takes the line about a full disk and leaves the note.

    Args:
        folder: of the trial.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME

    def __call__(self, line: str) -> None:
        """The disk is full, and is waited for."""
        with suppress(OSError):
            self._path.touch()


def take_space_note(folder: Path) -> bool:
    """Whether a trial has left the note; removes it."""
    path = folder / NAME
    try:
        path.unlink()
    except OSError:
        return False
    return True
