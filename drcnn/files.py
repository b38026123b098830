"""Atomic writing of files: a reader sees the old file or the whole new one, even after a kill.

And the checksum by which what is read is known to be what was written.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "DAMAGED",
    "SECONDS",
    "DiskFullError",
    "put_aside",
    "replacing",
    "require_space",
    "sha256_of",
    "tells_of_a_full_disk",
    "waiting_for_space",
    "write_text",
]

# How the libraries that write our files say it; safetensors has an error type of its own.
FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
FULL_WORDS = ("No space left on device", "Disk quota exceeded")
# How long a write waits for space: less than the workers of a group wait for each other (10 minutes).
SECONDS = 300.0
LONGEST_PAUSE = 15.0
# What a file is called that was put aside.
DAMAGED = ".damaged"


class DiskFullError(OSError):
    """There is no space for a file; the message is one line, names the file and says what is free."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; then replace ``path`` by it, or delete it after an error.

    A folder in the place of ``path`` is put aside.

    Raises:
        DiskFullError: in place of what the writer raised when the disk, or the user's share of it, was full.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with replacing(Path(folder, "result.json")) as draft:
    ...         _ = draft.write_text("{}")
    ...     Path(folder, "result.json").read_text()
    '{}'
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield draft
        if path.is_dir():
            put_aside(path)
        # In the same folder: only there is the file system's replace atomic.
        draft.replace(path)
    except Exception as error:
        if tells_of_a_full_disk(error):
            raise DiskFullError(errno.ENOSPC, _described(path, draft)) from None
        raise
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a text file as a whole."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def waiting_for_space(write: Callable[[], None], say: Callable[[str], None]) -> None:
    """Write files, and try again for some minutes while the disk is full.

    Args:
        write: writes them; called again from its beginning.
        say: told in a line what is waited for.

    Raises:
        DiskFullError: the disk is still full.
    """
    deadline, pause, is_told = time.monotonic() + SECONDS, 1.0, False
    while True:
        try:
            return write()
        except DiskFullError as error:
            if time.monotonic() + pause > deadline:
                raise
            if not is_told:
                say(f"{error}; waiting for space, {SECONDS / 60:.0f} minutes at most")
                is_told = True
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def require_space(folder: Path) -> None:
    """Check that a megabyte can be written to a folder.

    Raises:
        DiskFullError: it cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".space"
    with replacing(probe) as draft:
        draft.write_bytes(bytes(1 << 20))
    probe.unlink()


def put_aside(path: Path, companions: Sequence[str] = ()) -> Path:
    """Rename a damaged file, or the folder in a file's place, to ``<name>.damaged``; return the new path.

    What was put aside earlier stays: the next one is ``<name>.damaged-2``.

    Args:
        path: of the file.
        companions: endings of the names of files beside it that belong to it, and go with it.
    """
    name = f"{path.name}{DAMAGED}"
    aside, number = path.with_name(name), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{name}-{number}")
    path.rename(aside)
    for ending in companions:
        companion = path.with_name(path.name + ending)
        if companion.exists():
            companion.rename(aside.with_name(aside.name + ending))
    return aside


def tells_of_a_full_disk(error: Exception) -> bool:
    """Whether an error is that a disk, or the user's share of it, is full, whoever raised it."""
    is_full = isinstance(error, OSError) and error.errno in FULL_ERRNOS
    return is_full or any(words in str(error) for words in FULL_WORDS)


def _described(path: Path, draft: Path) -> str:
    free = shutil.disk_usage(path.parent).free
    written = draft.stat().st_size if draft.exists() else 0
    # What the draft took so far is free again once it is deleted.
    return (
        f"no space left in {path.parent} to write {path.name}: {(free + written) / 1e6:,.1f} MB are free; "
        "free space there and run the same command again"
    )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
