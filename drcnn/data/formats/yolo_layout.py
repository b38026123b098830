"""Where a YOLO folder has its class names, images and labels.

Known are ``data.yaml`` (Ultralytics, Roboflow, CVAT), which names classes and splits; ``obj.names`` with
``train.txt`` (Darknet, CVAT); and ``images/`` with ``labels/``, or labels beside the images, with
``classes.txt`` (Label Studio, labelImg).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from drcnn.data.annotations import DataError
from drcnn.data.formats.classes import require_class_names
from drcnn.data.formats.folders import files_in, image_files
from drcnn.data.formats.label_pairs import Pair, Pairs, find_pairs
from drcnn.file_names import is_possible
from drcnn.plain_text import shown
from drcnn.plain_yaml import YamlError, read_yaml

__all__ = ["LOOKED_FOR", "YoloFolder", "find_yolo"]

YAML_FILES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
NAME_FILES = ("classes.txt", "obj.names", "labels/classes.txt", "_darknet.labels", "train/_darknet.labels")
# Text files that are no labels.
NO_LABELS = ("classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt", "obj.names")
SPLIT_KEYS = ("train", "val", "valid", "test")
LOOKED_FOR = "data.yaml, or images/ with labels/*.txt and classes.txt"


@dataclass(frozen=True)
class YoloFolder:
    """The content of a YOLO folder.

    Attributes:
        classes: names, by the number that labels have; ``None`` if no file names them.
        names_file: where they stand.
        pairs: the images and their labels.
    """

    classes: tuple[str, ...] | None
    names_file: Path | None
    pairs: Pairs


def find_yolo(folder: Path) -> YoloFolder | None:
    """Find classes, images and labels; none if the folder has neither a data.yaml nor a label in its place.

    Raises:
        DataError: data.yaml is damaged or names images that do not exist or lie elsewhere.
    """
    settings_file = next((folder / name for name in YAML_FILES if (folder / name).is_file()), None)
    settings = _read_yaml(settings_file) if settings_file is not None else {}
    lists = _lists(folder, settings_file, settings)
    if lists:
        pairs: Pairs | None = _listed(folder, lists, f"with {(settings_file or Path('obj.names')).name}")
    else:
        pairs = find_pairs(folder, ".txt", NO_LABELS)
    if pairs is None:
        return None
    if "names" in settings and settings_file is not None:
        return YoloFolder(_names_of(settings["names"], settings_file), settings_file, pairs)
    file = next((folder / name for name in NAME_FILES if (folder / name).is_file()), None)
    return YoloFolder(_read_names(file) if file is not None else None, file, pairs)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, YamlError) as error:
        raise DataError(
            f"{path}: not readable as YAML ({' '.join(str(error).split())}); correct it"
        ) from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a mapping with names, train and val")
    return content


def _names_of(names: Any, path: Path) -> tuple[str, ...]:
    if isinstance(names, dict):
        if sorted(map(str, names)) != sorted(map(str, range(len(names)))):
            raise DataError(f"{path}: the numbers of 'names' are {shown(list(names))}, expected 0, 1, 2, ...")
        names = [name for _, name in sorted((int(number), name) for number, name in names.items())]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: 'names' is {shown(names)}, expected the list of classes")
    return _distinct(tuple(str(name).strip() for name in names), path)


def _read_names(path: Path) -> tuple[str, ...]:
    return _distinct(tuple(line.strip() for line in _lines(path)), path)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as UTF-8 text ({error}); correct it") from None


def _distinct(names: tuple[str, ...], path: Path) -> tuple[str, ...]:
    if not names or "" in names or len(set(names)) < len(names):
        raise DataError(f"{path}: the classes are {shown(names)}; expected different names")
    require_class_names(names, str(path))
    return names


def _lists(folder: Path, settings_file: Path | None, settings: dict[str, Any]) -> dict[str, list[Path]]:
    """Return the folders and lists of images of each split, as data.yaml or Darknet's lists name them."""
    if settings_file is None:
        found = {path.stem: [path] for path in sorted(folder.glob("*.txt")) if path.stem in SPLIT_KEYS}
        return found if (folder / "obj.names").is_file() else {}
    root = str(settings.get("path") or ".")
    lists: dict[str, list[Path]] = {}
    for split in SPLIT_KEYS:
        given = settings.get(split) or []
        values = [str(value) for value in (given if isinstance(given, list) else [given])]
        places = [_place(folder, root, value) for value in values]
        # Roboflow names a test split even where it has exported none.
        if split == "test" and None in places:
            continue
        for value, place in zip(values, places, strict=True):
            if place is None:
                raise DataError(
                    f"{settings_file}: {split}: {shown(value)} is not found in {folder}; give the path from "
                    "this folder, in which it must lie"
                )
            lists.setdefault(split, []).append(place)
    return lists


def _candidates(folder: Path, root: str, value: str) -> list[Path]:
    """Where a path of data.yaml may lie: in the folder, in ``path`` below it, or both without ``../``."""
    place = PurePosixPath(value.replace("\\", "/"))
    if place.is_absolute():
        return [Path(place)] if place.is_relative_to(folder) and ".." not in place.parts else []
    inner = PurePosixPath(*(part for part in place.parts if part != ".."))
    below = PurePosixPath(root)
    is_below = not below.is_absolute() and ".." not in below.parts
    return [folder / inner, *([folder / below / inner] if is_below else [])]


def _place(folder: Path, root: str, value: str) -> Path | None:
    places = filter(is_possible, _candidates(folder, root, value))
    return next((path for path in places if path.exists()), None)


def _listed(folder: Path, lists: dict[str, list[Path]], words: str) -> Pairs:
    splits: dict[str, tuple[Pair, ...]] = {}
    labels: set[Path] = set()
    for split, places in lists.items():
        pairs = [pair for place in places for pair in _pairs(folder, place)]
        splits[split] = tuple(pairs)
        labels |= {pair.label for pair in pairs if pair.label.is_file()}
        for place in filter(Path.is_dir, places):
            beside = _label(folder, place / "image").parent
            if beside != place and beside.is_dir():
                labels |= {path for path in files_in(beside, {".txt"}) if path.name not in NO_LABELS}
    if len(splits) == 1:
        splits = {"": next(iter(splits.values()))}
    return Pairs(splits, words, tuple(sorted(labels)))


def _pairs(folder: Path, place: Path) -> list[Pair]:
    images = image_files(place) if place.is_dir() else _read_list(folder, place)
    base = place if place.is_dir() else folder
    return [Pair(image.relative_to(base).as_posix(), image, _label(folder, image)) for image in images]


def _read_list(folder: Path, path: Path) -> list[Path]:
    """Read a list of images: paths from the list's folder, from ``folder``, or with one folder too many."""
    images = []
    for number, line in enumerate(_lines(path), start=1):
        text = line.strip()
        if not text:
            continue
        place = PurePosixPath(text.replace("\\", "/"))
        parts = [part for part in place.parts if part != ".."]
        if place.is_absolute():
            candidates = [Path(*parts)] if Path(*parts).is_relative_to(folder) else []
        else:
            candidates = [path.parent.joinpath(*parts), folder.joinpath(*parts), folder.joinpath(*parts[1:])]
        image = next(filter(Path.is_file, filter(is_possible, candidates)), None)
        if image is None:
            raise DataError(f"{path}: line {number}: {shown(text)} is not found in {folder}; correct it")
        images.append(image)
    return images


def _label(folder: Path, image: Path) -> Path:
    """Where the label of an image lies: in ``labels/`` instead of the last ``images/``, else beside it."""
    parts = list(image.relative_to(folder).parts)
    for at in reversed(range(len(parts) - 1)):
        if parts[at] == "images":
            parts[at] = "labels"
            return folder.joinpath(*parts).with_suffix(".txt")
    return image.with_suffix(".txt")
