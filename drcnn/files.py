"""Writing files so that a reader, or a kill at any moment, finds the old one or the whole new one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing", "write_text"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; then put that file in its place, or remove it on an error.

    >>> with replacing(Path("result.json")) as draft:
    ...     draft.write_text("{}")
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield draft
        # Within one folder: the file system's replace is atomic there, and only there.
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a text file as a whole."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")
