"""A data set made ready: where its tables lie, and what was found when it was read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from drcnn.data.warnings import WarningCounts, in_one_line
from drcnn.plain_text import printable

__all__ = ["PreparedData"]


@dataclass(frozen=True)
class PreparedData:
    """The paths of the prepared tables; a few strings, cheap to send to other processes.

    Attributes:
        train: path of the training split's table, for ``Annotations.load``.
        val: likewise, of the split to choose by; none if the data has none.
        test: likewise, of the split to judge by; none if the data has none.
        classes: names; a label is an index into them.
        fingerprint: 16 hex digits of the splits' content, pixels included, independent of their folder.
        skipped: the fault of everything left out, training split first.
        warnings: how many of each kind there are.
        described: which format was recognised, and how many images each split has; empty for the digits.
    """

    train: str
    val: str | None
    test: str | None
    classes: tuple[str, ...]
    fingerprint: str
    skipped: tuple[str, ...]
    warnings: WarningCounts = ()
    described: str = ""

    @property
    def judged(self) -> Literal["val", "test"]:
        """The split that a trained detector is judged by: ``test`` where there is one."""
        return "val" if self.test is None else "test"

    @property
    def judged_table(self) -> str:
        """The path of that split's table."""
        table = self.test or self.val
        assert table is not None, "prepare gives at least one of both"
        return table

    def said_at_start(self, source: str) -> list[str]:
        """What a run of the data begins with: the format, each fault that was skipped, how many warnings."""
        lines = [f"data: {self.described}"] if self.described else []
        lines += [f"skipped: {message}" for message in self.skipped]
        lines += [in_one_line(self.warnings, source)] if self.warnings else []
        return [printable(line) for line in lines]

    @property
    def tables(self) -> dict[str, str]:
        """The path of each split's table, by the name of the split."""
        paths = {"train": self.train, "val": self.val, "test": self.test}
        return {split: path for split, path in paths.items() if path is not None}
