"""Take values out of a COCO annotation file, with their faults explained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from drcnn.data.annotations import DataError
from drcnn.plain_text import shown

__all__ = ["list_of", "read_json", "value_of"]

KINDS: dict[type, str] = {int: "a whole number", str: "text", list: "a list"}


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of an annotation file.

    Raises:
        DataError: it is damaged, or no object.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); restore the file") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object with images, annotations and categories")
    return content


def list_of(content: dict[str, Any], key: str, path: Path) -> list[Any]:
    """Return a list of the file.

    Raises:
        DataError: it has none of this name.
    """
    value: list[Any] = value_of(content, key, list, f"{path}")
    return value


def value_of(entry: Any, key: str, kind: type, where: str) -> Any:
    """Return a value of an entry.

    Args:
        where: the file and the entry's place in it, for the message.

    Raises:
        DataError: it has none, or one of another kind.
    """
    if not isinstance(entry, dict) or key not in entry:
        raise DataError(f"{where}: has no {key!r}; expected a COCO instances file")
    value = entry[key]
    if not isinstance(value, kind):
        raise DataError(f"{where}: {key!r} is {shown(value)}, expected {KINDS[kind]}; correct it")
    return value
