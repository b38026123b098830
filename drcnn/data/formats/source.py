"""A data source opened: how its splits are found and read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drcnn.data.annotations import Annotations
from drcnn.data.faults import DataFaults

__all__ = ["Source"]


@dataclass(frozen=True)
class Source:
    """How to read data.

    Attributes:
        read: reads a split by the data's name of it.
        files: those whose change means reading a split again; a folder stands for all files in it.
        find: returns what the data call a split (``val`` may be ``valid``); none if they do not have it.
        settings: what else decides the content; the first is the format.
        words: what was recognised.
    """

    read: Callable[[str, DataFaults], Annotations]
    files: Callable[[str], list[Path]]
    find: Callable[[str], str | None]
    settings: tuple[object, ...]
    words: str
