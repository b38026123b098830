"""The checksum beside a prepared table (``<table>.sha256``), in the format of ``sha256sum``.

Loader workers and trials map tables into memory and do not verify them: who makes or fetches one does.
"""

from __future__ import annotations

from pathlib import Path

from drcnn.files import sha256_of, write_text

__all__ = ["checksum_file", "matches_checksum", "write_checksum"]


def checksum_file(table: Path) -> Path:
    """Where the checksum of a table is kept."""
    return table.with_name(f"{table.name}.sha256")


def write_checksum(table: Path) -> None:
    """Write the checksum of a table that was just saved."""
    write_text(checksum_file(table), f"{sha256_of(table)}  {table.name}\n")


def matches_checksum(path: Path, checksum: Path) -> bool:
    """Whether a table is as it was saved; one without its checksum, as a kill leaves it, is not.

    Args:
        path: of the table.
        checksum: the file with its checksum.
    """
    try:
        return checksum.read_text(encoding="utf-8").split()[:1] == [sha256_of(path)]
    except (OSError, UnicodeDecodeError):
        return False
