"""Find a COCO split's annotation file, and take values out of it with their faults explained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from drcnn.data.annotations import DataError

__all__ = ["find_files", "list_of", "read_json", "value_of"]

PREFIX = "instances_"
KINDS: dict[type, str] = {int: "a whole number", str: "text", list: "a list"}


def find_files(folder: Path, split: str) -> tuple[Path, Path]:
    """Return the annotation file and the image folder of a split.

    Raises:
        DataError: one of them does not exist, or several annotation files fit the split equally well.
    """
    path = _find_instances(folder, split)
    name = path.stem.removeprefix(PREFIX)
    for images in (folder / name, folder / "images" / name):
        if images.is_dir():
            return path, images
    raise DataError(f"{folder}: no image folder {name}/ for {path.name}; expected {name}/ or images/{name}/")


def _find_instances(folder: Path, split: str) -> Path:
    annotations = folder / "annotations"
    exact = annotations / f"{PREFIX}{split}.json"
    if exact.is_file():
        return exact
    candidates = sorted(annotations.glob(f"{PREFIX}{split}*.json"))
    years = {path: path.stem.removeprefix(PREFIX + split) for path in candidates}
    dated = [path for path in candidates if years[path].isdecimal()]
    if dated:
        return max(dated, key=lambda path: int(years[path]))
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        names = ", ".join(path.name for path in candidates)
        raise DataError(
            f"{annotations}: split {split!r} fits several files ({names}); give the full name of one"
        )
    existing = ", ".join(path.name for path in sorted(annotations.glob("*.json"))) or "no JSON file"
    raise DataError(f"{annotations}: no {PREFIX}{split}*.json (found {existing}); give a split that exists")


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of an annotation file.

    Raises:
        DataError: it is damaged, or no object.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
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
        raise DataError(f"{where}: {key!r} is {value!r}, expected {KINDS[kind]}; correct it")
    return value
