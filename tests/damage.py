"""What happens to files: the damages that every file of an output is tested with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

__all__ = ["DAMAGES", "flip_bit"]


def flip_bit(path: Path, at: float = 0.5) -> None:
    """Flip one bit, at a part of the file's length."""
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": _truncate,
    "one bit flipped": flip_bit,
    "empty": _empty,
    "deleted": Path.unlink,
    "a folder": _replace_by_folder,
}
