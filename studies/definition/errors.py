"""What the person who started a study can put right: each is one line that says what to do."""

from __future__ import annotations

from drcnn.plain_text import printable

__all__ = ["FetchError", "StudyError", "one_line"]


class StudyError(ValueError):
    """A study that does not exist or cannot be used as asked."""


class FetchError(OSError):
    """Data of an object store cannot be downloaded on this node now; another node or attempt may succeed."""


def one_line(error: object, length: int = 300) -> str:
    """Return the beginning of an error's message as one line, to be quoted in another message."""
    return printable(" ".join(str(error).split()))[:length]
