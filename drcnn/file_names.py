"""Paths that people type, and names of files that other people's files hold."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["is_possible", "typed_path"]

# Bytes of a path and of each name in it, on Linux.
MOST_BYTES, MOST_NAME_BYTES = 4096, 255


def typed_path(text: str) -> Path:
    """Return the path that a person has typed; ``~`` is the home folder, ``~nobody`` a file of that name.

    >>> typed_path("~no such person/a")
    PosixPath('~no such person/a')
    """
    return Path(os.path.expanduser(text))


def is_possible(path: Path) -> bool:
    """Whether a file can have this path; to ask the system about another one is an error.

    >>> is_possible(Path("images", "a.jpg")), is_possible(Path("images", "a" * 999)), is_possible(Path("\\0"))
    (True, False, False)
    """
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        return False
    names = encoded.split(b"/")
    return b"\0" not in encoded and len(encoded) < MOST_BYTES and max(map(len, names)) <= MOST_NAME_BYTES
