"""Classes are matched by name: splits and folders may number them differently."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drcnn.data.annotations import Annotations, DataError
from drcnn.data.table_checksum import checksum_file, matches_checksum, write_checksum
from drcnn.plain_text import UNPRINTABLE, shown

__all__ = ["concatenated", "matched", "renumbered", "require_class_names"]

# Letters of a class's name: it stands in tables and in pictures.
LONGEST_NAME = 100


def matched(path: str, classes: Sequence[str]) -> str:
    """Return the path of a table with labels numbered as in ``classes``: this one, or one made beside it.

    Raises:
        DataError: as ``renumbered`` does.
    """
    table = Annotations.load(path)
    if table.classes == tuple(classes):
        return path
    key = hashlib.sha256(json.dumps(list(classes)).encode()).hexdigest()[:8]
    target = Path(path).with_name(f"{Path(path).stem}-{key}.arrow")
    if not matches_checksum(target, checksum_file(target)):
        renumbered(table, classes).save(target)
        write_checksum(target)
    return str(target)


def renumbered(table: Annotations, classes: Sequence[str]) -> Annotations:
    """Return a table with its labels numbered as in ``classes``; those that it lacks have no objects in it.

    Raises:
        DataError: it has objects of a class that is not among them.
    """
    labels = _new_labels(table, classes)
    records = [replace(table.record(row), labels=labels[table.labels(row)]) for row in range(len(table))]
    return Annotations.from_records(
        records, classes, skipped=table.skipped, category_ids=_ids(table, classes)
    ).with_warnings(table.warnings)


def concatenated(tables: Mapping[str, Annotations]) -> Annotations:
    """Join the images of several folders; an id becomes ``folder/id``.

    Args:
        tables: by the names of their folders. The classes are those of all, in the order of their first.
    """
    classes = list(dict.fromkeys(name for table in tables.values() for name in table.classes))
    records = [
        replace(record, id=f"{folder}/{record.id}", labels=_new_labels(table, classes)[table.labels(row)])
        for folder, table in tables.items()
        for row, record in ((row, table.record(row)) for row in range(len(table)))
    ]
    skipped = [message for table in tables.values() for message in table.skipped]
    return Annotations.from_records(records, classes, skipped=skipped)


def require_class_names(names: Iterable[str], where: str) -> None:
    """Refuse names of classes that no terminal or page should show.

    Args:
        names: of the classes.
        where: the file or folder that has them, for the message.

    Raises:
        DataError: a name is very long, or holds control characters.
    """
    for name in names:
        if len(name) > LONGEST_NAME or UNPRINTABLE.search(name) or "\n" in name:
            raise DataError(
                f"{where}: the class {shown(name)} cannot be shown; rename it to at most {LONGEST_NAME} "
                "letters without line breaks and control characters"
            )


def _new_labels(table: Annotations, classes: Sequence[str]) -> NDArray[np.int32]:
    """int32[K], the new label of each class of the table; -1 for one without objects that is not listed."""
    index = {name: label for label, name in enumerate(classes)}
    used = sorted({table.classes[label] for label in np.unique(table.all_labels)} - set(index))
    if used:
        raise DataError(f"objects of {', '.join(used)}, which is not among the classes {', '.join(classes)}")
    return np.array([index.get(name, -1) for name in table.classes], dtype=np.int32)


def _ids(table: Annotations, classes: Sequence[str]) -> list[int]:
    """COCO's id of each class; a class that the table lacks gets a new one."""
    if not table.category_ids:
        return []
    ids = dict(zip(table.classes, table.category_ids, strict=True))
    new = max(ids.values()) + 1
    missing = [name for name in classes if name not in ids]
    return [ids[name] if name in ids else new + missing.index(name) for name in classes]
