"""Folders of data: how they are named and joined, and the images in them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from drcnn.data.annotations import DataError
from drcnn.file_names import is_possible, typed_path

__all__ = [
    "IMAGE_SUFFIXES",
    "all_files",
    "as_split",
    "distinct_names",
    "files_in",
    "image_files",
    "instead_of",
    "is_folder",
    "joined_folders",
    "split_folders",
]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
# What the splits are called, in folders, lists and files.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


def joined_folders(where: str) -> list[str]:
    """Split what stands behind ``voc:`` at each ``+`` that is not part of an existing folder's name.

    >>> joined_folders("a/VOC2007+b/VOC2007")
    ['a/VOC2007', 'b/VOC2007']
    """
    parts, folders = where.split("+"), []
    while parts:
        count = next(
            n for n in range(len(parts), 0, -1) if n == 1 or is_folder(typed_path("+".join(parts[:n])))
        )
        folders.append("+".join(parts[:count]))
        parts = parts[count:]
    return folders


def is_folder(path: Path) -> bool:
    """Whether there is such a folder, whatever was typed."""
    return is_possible(path) and path.is_dir()


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Return a name for each folder: its own, and numbered from the second folder of the same name on.

    The names do not depend on where the folders lie.

    >>> distinct_names([Path("a/VOC2007"), Path("b/VOC2007"), Path("VOC2012")])
    ['VOC2007', 'VOC2007-2', 'VOC2012']
    """
    seen: Counter[str] = Counter()
    names = []
    for folder in folders:
        seen[folder.name] += 1
        names.append(folder.name if seen[folder.name] == 1 else f"{folder.name}-{seen[folder.name]}")
    return names


def as_split(name: str) -> str | None:
    """Return which of ``train``, ``val`` and ``test`` a name stands for.

    >>> as_split("Valid"), as_split("photos")
    ('val', None)
    """
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)


def instead_of(split: str) -> str:
    """Say which settings do without a split that a folder does not have."""
    if as_split(split) == "val":
        return "--set data.val_split=null trains without choosing"
    if as_split(split) == "test":
        return "--set data.train_split=train data.val_split=val data.test_split=null judges by val"
    return "set data.train_split, data.val_split and data.test_split to its own (null: none)"


def split_folders(folder: Path) -> dict[str, Path]:
    """Return the folders in ``folder`` that are named as splits, by their name; ``train`` comes first."""
    order = list(SPLIT_NAMES)
    found = [(as_split(path.name), path) for path, is_dir in sorted(_entries(folder)) if is_dir]
    ranked = sorted(((order.index(split), path) for split, path in found if split), key=lambda pair: pair[0])
    return {path.name: path for _, path in ranked}


def image_files(folder: Path) -> list[Path]:
    """Return the image files in a folder and in all folders in it, sorted; links are followed."""
    return files_in(folder, IMAGE_SUFFIXES)


def files_in(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Return the files with one of these suffixes (in lower case), as ``image_files`` does."""
    return sorted(path for path in all_files(folder) if path.suffix.lower() in suffixes)


def all_files(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Yield the files in a folder and in all folders in it; links are followed.

    Names that begin with a dot are left out: they are what systems keep about files.

    Args:
        folder: to look into.
        above: the folders that it lies in, with links resolved: a link may lead back to one of them.

    Raises:
        DataError: a folder cannot be looked into.
    """
    real = folder.resolve()
    if real in above:
        return
    for path, is_dir in _entries(folder):
        if path.name.startswith("."):
            continue
        if is_dir:
            yield from all_files(path, above | {real})
        else:
            yield path


def _entries(folder: Path) -> list[tuple[Path, bool]]:
    """What is in a folder, and whether it is one; links are followed."""
    try:
        with os.scandir(folder) as entries:
            paths = [folder / entry.name for entry in entries]
        return [(path, path.is_dir()) for path in paths]
    except OSError as error:
        raise DataError(
            f"{error.filename or folder}: cannot be looked into ({error.strerror}); make it readable, or "
            "give the folder of the data alone"
        ) from None
