"""A folder for temporary files that Ray can use: its sockets' paths may have 107 bytes, and no more.

$TMPDIR may be longer, as in jobs of Slurm or on a Mac, or /tmp may be full or not to be written.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from studies.definition.errors import StudyError, one_line

__all__ = ["use_short_temporary_folder"]

# What Ray adds: /ray/session_2026-11-26_07-56-07_119756_4194304/sockets/plasma_store, and of older ones a
# number that makes it unique.
ADDED, LONGEST = 70, 107
LEAST = 1 << 20  # bytes; Ray writes more, but not at once
CANDIDATES = ("/tmp", "/var/tmp", "/dev/shm")


def use_short_temporary_folder() -> None:
    """Set $TMPDIR, of this process and those that it starts, to a folder where Ray's sockets fit.

    A $RAY_TMPDIR, or else a $TMPDIR, that fits stays as it is.

    Raises:
        StudyError: there is none.
    """
    asked = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR")
    faults = []
    for folder in filter(None, (asked, *CANDIDATES, os.environ.get("XDG_RUNTIME_DIR"))):
        fault = _fault(Path(folder))
        if fault is None:
            if folder != os.environ.get("RAY_TMPDIR"):
                os.environ.pop("RAY_TMPDIR", None)
                os.environ["TMPDIR"] = folder
                tempfile.tempdir = None
            return
        faults.append(f"{folder} {fault}")
    raise StudyError(
        f"Ray needs a folder for temporary files, with a path of at most {LONGEST - ADDED} bytes: "
        f"{'; '.join(faults)}; set RAY_TMPDIR to one"
    )


def _fault(folder: Path) -> str | None:
    """Why Ray cannot work in a folder; none if it can."""
    if len(os.fsencode(folder)) > LONGEST - ADDED:
        return "is too long"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # A full disk still takes files without content.
            file.write(bytes(LEAST))
            file.flush()
            return None
    except OSError as error:
        return f"cannot be written ({one_line(error.strerror)})"
