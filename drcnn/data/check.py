"""Everything that is wrong or odd with a data source, found without training and without writing anything."""

from __future__ import annotations

from dataclasses import dataclass

from drcnn.config import DataConfig
from drcnn.data.annotations import Annotations, DataError
from drcnn.data.checks import few_to_judge, unusable, warnings_across_splits, warnings_of_split
from drcnn.data.faults import DataFaults
from drcnn.data.formats.classes import renumbered
from drcnn.data.formats.sources import open_source, split_names
from drcnn.data.warnings import DataWarning

__all__ = ["Checked", "check"]


@dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes:
        faults: one line each; with any of them training refuses the data.
        warnings: what is used all the same.
        tables: the usable images of each split, by ``train``, ``val`` and ``test``.
        words: what the data was recognised as; empty for the digits.
    """

    faults: tuple[str, ...]
    warnings: tuple[DataWarning, ...]
    tables: dict[str, Annotations]
    words: str = ""


def check(data: DataConfig) -> Checked:
    """Read all splits and decode every image, as training with ``data.on_bad_data=skip`` would."""
    try:
        source = open_source(data)
        names = split_names(data, source)
    except DataError as error:
        return Checked((str(error),), (), {})
    faults: list[str] = []
    warnings: list[DataWarning] = []
    tables: dict[str, Annotations] = {}
    for split, name in names.items():
        found = DataFaults(skip=True)
        try:
            table = source.read(name, found)
        except DataError as error:
            found.messages.append(str(error))
        else:
            count = getattr(data, f"{split}_images")
            found.warnings += few_to_judge(split, table, count)
            table = table if count is None else table.first(count)
            try:
                tables[split] = renumbered(table, tables["train"].classes) if "train" in tables else table
            except DataError as error:
                found.messages.append(f"split {name!r} has {error}; give splits with the same categories")
                tables[split] = table
            found.warnings += warnings_of_split(split, tables[split])
        faults += found.messages
        warnings += found.warnings
    faults += unusable(tables, names)
    if len(tables) == len(names):
        warnings += warnings_across_splits(tables)
    # A list that serves as two splits is read twice.
    return Checked(tuple(dict.fromkeys(faults)), tuple(warnings), tables, source.words)
