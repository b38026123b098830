"""Where a COCO folder has its annotation files and images.

Besides COCO's own ``annotations/instances_{split}.json`` these are known: ``annotations/{split}.json``;
Roboflow's ``{split}/_annotations.coco.json`` beside the images; CVAT's ``instances_default.json``; Label
Studio's ``result.json``. The images of a split lie in ``{split}/``, ``images/{split}/`` or ``images/``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from drcnn.data.annotations import DataError
from drcnn.data.formats.folders import as_split, instead_of
from drcnn.file_names import is_possible
from drcnn.plain_text import shown

__all__ = [
    "LOOKED_FOR",
    "CocoFiles",
    "find_files",
    "find_splits",
    "image_path",
    "match_split",
    "without_root",
]

PREFIX = "instances_"
ROBOFLOW = "_annotations.coco.json"
# Of a folder without splits.
SINGLE = ("result.json", "annotations.json", "coco.json", ROBOFLOW)
LOOKED_FOR = f"annotations/instances_*.json, SPLIT/{ROBOFLOW} or {SINGLE[0]}"


@dataclass(frozen=True)
class CocoFiles:
    """The annotation files of a folder.

    Attributes:
        splits: by the folder's names of its splits; a folder without splits has only ``""``.
        words: the layout, to follow "COCO": "as Roboflow exports it".
    """

    splits: dict[str, Path]
    words: str


def find_splits(folder: Path) -> CocoFiles | None:
    """Find the annotation files; none if there is none in a known place."""
    files = sorted(folder.glob("annotations/*.json"))
    plain = {path.stem: path for path in files if as_split(path.stem)}
    prefixed = {path.stem.removeprefix(PREFIX): path for path in files if path.stem.startswith(PREFIX)}
    splits = plain | prefixed
    if splits:
        single = len(splits) == 1 and "default" in splits
        return CocoFiles({"": splits["default"]} if single else splits, "with annotations/")
    exported = {path.parent.name: path for path in sorted(folder.glob(f"*/{ROBOFLOW}"))}
    if exported:
        single = len(exported) == 1
        return CocoFiles(
            {"": next(iter(exported.values()))} if single else exported, "as Roboflow exports it"
        )
    found = [folder / name for name in SINGLE if (folder / name).is_file()]
    if len(found) > 1:
        raise DataError(
            f"{folder}: {' and '.join(path.name for path in found)} could both be its annotations; keep one"
        )
    return CocoFiles({"": found[0]}, f"with {found[0].name}") if found else None


def match_split(splits: dict[str, Path], split: str, folder: Path) -> str | None:
    """Return what a folder calls a split: ``train`` may be ``train2017``, ``val`` may be ``valid``.

    Raises:
        DataError: several files fit equally well.
    """
    if split in splits:
        return split
    candidates = [name for name in splits if name.startswith(split)]
    dated = [name for name in candidates if name.removeprefix(split).isdecimal()]
    if dated:
        return max(dated, key=lambda name: int(name.removeprefix(split)))
    if len(candidates) > 1:
        names = ", ".join(splits[name].name for name in candidates)
        raise DataError(f"{folder}: split {split!r} fits several files ({names}); give the full name of one")
    alike = [name for name in splits if as_split(name) and as_split(name) == as_split(split)]
    return next(iter(candidates or alike), None)


def find_files(folder: Path, split: str) -> tuple[Path, Path]:
    """Return the annotation file and the image folder of a split.

    Raises:
        DataError: one of them does not exist, or several annotation files fit the split equally well.
    """
    found = find_splits(folder)
    splits = found.splits if found is not None else {}
    name = match_split(splits, split, folder)
    if name is None:
        existing = ", ".join(str(path.relative_to(folder)) for path in splits.values()) or "none"
        raise DataError(
            f"{folder}: no annotations of split {split!r}, such as annotations/{PREFIX}{split}.json "
            f"(found {existing}); {instead_of(split)}"
        )
    return splits[name], _image_folder(folder, splits[name])


def _image_folder(folder: Path, path: Path) -> Path:
    if path.parent.name != "annotations":
        # Roboflow's lie beside the file, Label Studio's in images/.
        images = path.parent / "images"
        return images if images.is_dir() else path.parent
    name = path.stem.removeprefix(PREFIX)
    for images in (folder / name, folder / "images" / name, folder / "images"):
        if images.is_dir():
            return images
    raise DataError(f"{folder}: no image folder for {path.name}; expected {name}/, images/{name}/ or images/")


def image_path(folder: Path, file_name: str, where: str) -> Path:
    """Return the image that an entry names; it may be a link to anywhere, but its path stays in the folder.

    Args:
        folder: of the split's images; ``file_name`` may begin with its name, as in ``images/a.jpg``.
        file_name: of the entry; ``\\`` separates folders like ``/``.
        where: the entry, for the message.

    Raises:
        DataError: it leads out of the folder, or no file can have such a name.
    """
    if not is_possible(folder / file_name):
        raise DataError(f"{where}: file_name {shown(file_name)} is no file's name; correct it")
    place = PurePosixPath(file_name if (folder / file_name).is_file() else file_name.replace("\\", "/"))
    if place.is_absolute() or ".." in place.parts:
        raise DataError(f"{where}: file_name {shown(file_name)} leads out of {folder}; correct it")
    path = folder / place
    if not path.is_file() and place.parts[:1] == (folder.name,):
        return folder.parent / place
    return path


def without_root(categories: list[Any], annotations: list[Any]) -> list[Any]:
    """Leave out Roboflow's root: a category without objects that others have as their supercategory."""
    used = {
        entry["category_id"]
        for entry in annotations
        if isinstance(entry, dict) and isinstance(entry.get("category_id"), int)
    }
    parents = Counter(
        entry["supercategory"]
        for entry in categories
        if isinstance(entry, dict) and isinstance(entry.get("supercategory"), str)
    )

    def is_root(entry: Any) -> bool:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            return False
        is_own = entry.get("supercategory") == entry["name"]
        has_objects = isinstance(entry.get("id"), int) and entry["id"] in used
        return not has_objects and parents[entry["name"]] > is_own

    return [entry for entry in categories if not is_root(entry)]
