"""Atomic writing of files: a reader sees the old file or the whole new one, even after a kill."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing", "write_text"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; then replace ``path`` by it, or delete it after an error.

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
        # In the same folder: only there is the file system's replace atomic.
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a text file as a whole."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")
