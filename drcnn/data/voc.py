"""Read a VOCdevkit year folder: ``JPEGImages/``, ``Annotations/``, ``ImageSets/Main/{split}.txt``.

VOC's corners are pixel numbers counted from 1. As MMDetection does (and so the paper), 1 is taken off all
four and the result is used as a continuous box: ``xmin..xmax`` becomes ``[xmin - 1, xmax - 1]``, of width
``xmax - xmin``.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from drcnn.data.annotations import Annotations, DataError, Record
from drcnn.data.faults import DataFaults, checked_box
from drcnn.data.folders import distinct_names
from drcnn.data.images import decode, file_digest, read_size

__all__ = ["VOC_CLASSES", "class_names", "read_objects", "read_voc"]

# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
CORNERS = ("xmin", "ymin", "xmax", "ymax")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


@dataclass
class VocObjects:
    """The content of an XML file: usable objects, faults of the image, and boxes without area."""

    names: list[str] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    empty_boxes: list[str] = field(default_factory=list)


def read_voc(folders: Sequence[Path], split: str, faults: DataFaults) -> Annotations:
    """Read one split of one or several folders.

    The classes are VOC's 20 in alphabetical order if every name in the folders is one of them, else the
    sorted names of all their annotations, so that all splits agree. With several folders an id is
    ``folder/name``. Sizes are those of the image files, not those in the XML.

    Args:
        folders: joined in this order.
        split: the name of a list in ``ImageSets/Main``.
        faults: collects every fault. If it skips, an image with any fault is left out, and every image is
            decoded once to find damage (two minutes for VOC07+12), so that training finds none.

    Raises:
        DataError: the folder is no VOC folder, the list is missing or empty; or, unless ``faults`` skips,
            an annotation or image is missing or damaged, an object lacks a field, or a box is wrong.
    """
    lists = {folder: _find_list(folder, split) for folder in folders}
    if not any(path.is_file() for path in lists.values()):
        first = lists[folders[0]]
        existing = ", ".join(sorted(file.stem for file in first.parent.glob("*.txt"))) or "none"
        raise DataError(
            f"{first}: no such list (there are: {existing}); set data.train_split and data.val_split"
        )
    listed = []
    for folder, path in lists.items():
        if path.is_file():
            listed += [(folder, name) for name in _read_list(path)]
        else:
            # VOC2012 has no test list: VOC2007+VOC2012 train on both and are tested on the first.
            faults.note(f"{path}: no such list, so no image of this folder is in split {split!r}")
    files = (file for folder in folders for file in (folder / "Annotations").glob("*.xml"))
    names = set[str]().union(*map(class_names, files))
    classes = VOC_CLASSES if names <= set(VOC_CLASSES) else tuple(sorted(names))
    index = {name: label for label, name in enumerate(classes)}
    prefixes = dict(zip(folders, distinct_names(folders), strict=True))
    records = []
    for folder, name in listed:
        objects, size, image = _read_image(folder, name, decode_all=faults.skip)
        if faults.add(objects.faults):
            continue
        for message in objects.empty_boxes:
            faults.note(message)
        records.append(
            Record(
                id=f"{prefixes[folder]}/{name}" if len(folders) > 1 else name,
                width=size[0],
                height=size[1],
                boxes=objects.boxes,
                labels=[index[class_name] for class_name in objects.names],
                ignore=objects.difficult,
                path=str(image),
                digest=file_digest(str(image)),
            )
        )
    if not records:
        raise DataError(f"{folders[0]}: split {split!r} has no usable image")
    return Annotations.from_records(records, classes, skipped=faults.messages)


def _find_list(folder: Path, split: str) -> Path:
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        if not (folder / part).is_dir():
            raise DataError(
                f"{folder}: no folder {part}/; expected a VOCdevkit year folder with "
                "JPEGImages/, Annotations/ and ImageSets/Main/"
            )
    return folder / "ImageSets" / "Main" / f"{split}.txt"


def _read_list(path: Path) -> list[str]:
    lines = [line.split() for line in _read_text(path).splitlines()]
    names = [words[0] for words in lines if words]
    if not names:
        raise DataError(f"{path}: the list is empty; expected an image name a line")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: {twice!r} is listed twice; remove one of the lines")
    for name in names:
        # A name must not be a path, so that nothing outside the folder is read.
        if "/" in name or "\\" in name or name in {".", ".."}:
            raise DataError(
                f"{path}: {name!r} is not an image name; expected a name without folder and suffix"
            )
    return names


def class_names(path: Path) -> set[str]:
    """Return the names of the objects in an XML file; none of one that cannot be read."""
    try:
        objects = _parse(path).findall("object")
    except DataError:
        return set()
    return {name for item in objects if (name := (item.findtext("name") or "").strip())}


def _read_image(folder: Path, name: str, *, decode_all: bool) -> tuple[VocObjects, tuple[int, int], Path]:
    candidates = [folder / "JPEGImages" / f"{name}{suffix}" for suffix in IMAGE_SUFFIXES]
    image = next((path for path in candidates if path.is_file()), candidates[0])
    try:
        size = read_size(str(image))
        if decode_all:
            decode(str(image))
    except DataError as error:
        return VocObjects(faults=[str(error)]), (0, 0), image
    return read_objects(folder / "Annotations" / f"{name}.xml", size), size, image


def read_objects(path: Path, size: tuple[int, int]) -> VocObjects:
    """Read an XML file; ``size`` is the (width, height) of its image, which boxes may not leave."""
    objects = VocObjects()
    try:
        elements = _parse(path).findall("object")
    except DataError as error:
        objects.faults.append(str(error))
        return objects
    for number, item in enumerate(elements, start=1):
        where = f"{path}: object {number}"
        try:
            name = _text(item, "name", where)
            left, top, right, bottom = (_number(item, f"bndbox/{corner}", where) - 1 for corner in CORNERS)
            difficult = (
                _number(item, "difficult", where) != 0 if item.find("difficult") is not None else False
            )
            box = checked_box((left, top, right, bottom), *size, where)
        except DataError as error:
            objects.faults.append(str(error))
            continue
        if box is None:
            # Nothing can match it and no regression target exists, but the rest of the image is usable.
            objects.empty_boxes.append(f"{where}: box of zero area left out")
            continue
        objects.names.append(name)
        objects.boxes.append(box)
        objects.difficult.append(difficult)
    return objects


def _parse(path: Path) -> ET.Element:
    text = _read_text(path)
    # Entities could make a small file fill the memory, and VOC does not need them.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError(f"{path}: has a DOCTYPE or ENTITY declaration, which is refused; remove it")
    try:
        root = ET.fromstring(text)
    except (ET.ParseError, ValueError) as error:
        raise DataError(
            f"{path}: not readable as XML ({error}); correct it or use --on-bad-data skip"
        ) from None
    if root.tag != "annotation":
        raise DataError(f"{path}: the root is <{root.tag}>, expected <annotation>; is this a VOC annotation?")
    return root


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; restore it or use --on-bad-data skip") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error}); correct it") from None


def _text(item: ET.Element, field_name: str, where: str) -> str:
    text = (item.findtext(field_name) or "").strip()
    if not text:
        tags = "><".join(field_name.split("/"))
        raise DataError(f"{where}: has no <{tags}>; add it or use --on-bad-data skip")
    return text


def _number(item: ET.Element, field_name: str, where: str) -> int:
    text = _text(item, field_name, where)
    try:
        # A few files of VOC2011 write 45.70 where all others have whole pixels.
        return int(float(text))
    except (ValueError, OverflowError):
        tag = field_name.rpartition("/")[2]
        raise DataError(f"{where}: <{tag}> is {text!r}, expected a whole number; correct it") from None
