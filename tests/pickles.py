"""A pickle that runs code where somebody loads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.path,)
