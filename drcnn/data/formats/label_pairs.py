"""Folders with a label file for each image: which image belongs to which label, and to which split.

The layouts are those of labelImg (labels beside the images), of ``images/`` with a folder of labels, and of
exports that have such a folder for each split (``train/images``) or the other way round (``images/train``).
They are the same for VOC's XML and for YOLO's text files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from drcnn.data.formats.folders import files_in, image_files, split_folders

__all__ = ["Pair", "Pairs", "find_pairs", "label_faults"]

IMAGE_FOLDERS = ("images", "JPEGImages", "imgs", "img", "Images")
LABEL_FOLDERS = (
    "labels", "annotations", "annots", "Annotations", "annotation", "xmls", "xml", "label", "Labels",
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """An image and its label file.

    Attributes:
        id: path of the image in its split, with ``/``.
        image: the image file.
        label: its label file; an image without objects may have none.
    """

    id: str
    image: Path
    label: Path


@dataclass(frozen=True)
class Pairs:
    """The images of a folder.

    Attributes:
        splits: of the images, by the folder's names of its splits; a folder without splits has only ``""``.
        words: the layout, to follow the name of the format: "beside the images".
        labels: all label files there are.
    """

    splits: dict[str, tuple[Pair, ...]]
    words: str
    labels: tuple[Path, ...]

    @property
    def all(self) -> tuple[Pair, ...]:
        """The images of all splits."""
        return tuple(pair for pairs in self.splits.values() for pair in pairs)


@dataclass(frozen=True)
class _Portion:
    """The images below one folder, with the labels below another or beside them."""

    images: Path
    labels: Path
    label_files: tuple[Path, ...]

    def pairs(self, suffix: str) -> tuple[Pair, ...]:
        images = image_files(self.images)
        if self.images == self.labels:
            # Folders without any label hold something else, such as a run's pictures.
            labelled = {label.parent for label in self.label_files}
            images = [image for image in images if image.parent in labelled]
        places = [(image, image.relative_to(self.images)) for image in images]
        return tuple(
            Pair(place.as_posix(), image, (self.labels / place).with_suffix(suffix))
            for image, place in places
        )


def find_pairs(folder: Path, suffix: str, names: Iterable[str] = ()) -> Pairs | None:
    """Find the images of a folder and their labels; none if it has no label in a known place.

    Args:
        folder: of the data.
        suffix: of the label files, ``.xml`` or ``.txt``.
        names: of files with this suffix that are no labels.
    """
    portions, words = _portions(folder, suffix, frozenset(names))
    if not portions:
        return None
    if len(portions) == 1:
        # Tools that know no splits call everything the same.
        portions = {"": next(iter(portions.values()))}
    splits = {name: portion.pairs(suffix) for name, portion in portions.items()}
    labels = tuple(label for portion in portions.values() for label in portion.label_files)
    return Pairs(splits, words, labels)


def label_faults(pairs: Pairs) -> list[str]:
    """Return one line for every label file that has no image, or that two images would share."""
    users = Counter(pair.label for pair in pairs.all)
    missing = [
        f"{label}: no image of this name; restore the image or delete the label"
        for label in pairs.labels
        if label not in users
    ]
    shared = [
        f"{label}: belongs to several images ({_names(pairs, label)}); keep one of them"
        for label, number in users.items()
        if number > 1
    ]
    return missing + shared


def _names(pairs: Pairs, label: Path) -> str:
    return ", ".join(pair.id for pair in pairs.all if pair.label == label)


def _portions(folder: Path, suffix: str, names: frozenset[str]) -> tuple[dict[str, _Portion], str]:
    """Return the splits of a folder, and the layout in words."""
    # train/images with train/labels, or train/ with both.
    found = {name: _portion(path, suffix, names) for name, path in split_folders(folder).items()}
    portions = {name: portion for name, portion in found.items() if portion is not None}
    if portions:
        where = _words(next(iter(portions.values())))
        return portions, f"{where}, in a folder for each split"
    whole = _portion(folder, suffix, names)
    if whole is None:
        return {}, ""
    # images/train with labels/train.
    parts = {
        name: _Portion(path, whole.labels / name, files)
        for name, path in split_folders(whole.images).items()
        if (files := tuple(file for file in whole.label_files if file.is_relative_to(whole.labels / name)))
    }
    return (parts or {"": whole}), _words(whole)


def _portion(folder: Path, suffix: str, names: frozenset[str]) -> _Portion | None:
    images = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), folder)
    for labels in (*(folder / name for name in LABEL_FOLDERS), images):
        if labels.is_dir():
            files = _label_files(labels, images, suffix, names)
            if files:
                return _Portion(images, labels, files)
    return None


def _label_files(labels: Path, images: Path, suffix: str, names: frozenset[str]) -> tuple[Path, ...]:
    files = [path for path in files_in(labels, {suffix}) if path.name not in names]
    if labels == images:
        found = image_files(images)
        folders = {image.parent for image in found}
        files = [path for path in files if path.parent in folders]
        if suffix == ".txt":
            # A text file may be anything; beside images, one that is named like an image is a label.
            stems = {image.with_suffix("") for image in found}
            files = [path for path in files if path.with_suffix("") in stems]
    return tuple(files)


def _words(portion: _Portion) -> str:
    return "beside the images" if portion.images == portion.labels else f"in {portion.labels.name}/"
