"""What happens to files and disks: the damages that every file of an output is tested with, and no space."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

__all__ = ["DAMAGES", "Filler", "flip_bit", "small_disk"]


def flip_bit(path: Path, at: float = 0.5) -> None:
    """Flip one bit, at a part of the file's length."""
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _not_utf8(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"\xff\xfe" + content[len(content) // 2 + 2 :])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": _truncate,
    "one bit flipped": flip_bit,
    "not UTF-8": _not_utf8,
    "empty": _empty,
    "deleted": Path.unlink,
    "a folder": _replace_by_folder,
}


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk of a few megabytes, mounted at a folder; skips the test where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk takes root's rights")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Filler:
    """A file that fills its disk."""

    def __init__(self, disk: Path) -> None:
        self.path = disk / "filler"
        with suppress(OSError), self.path.open("wb", buffering=0) as file:
            while file.write(bytes(1 << 12)):
                pass

    def remove(self) -> None:
        """Make space again."""
        self.path.unlink()
