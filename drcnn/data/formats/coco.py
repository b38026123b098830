"""Read COCO's annotation files (``drcnn.data.formats.coco_layout`` says which).

Category ids become labels 0, 1, 2, ... in ascending order; ``Annotations.category_ids`` maps them back.
Categories of one name are one class, as Roboflow's exports need, whose root may be named like a class.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drcnn.data.annotations import Annotations, DataError, Record
from drcnn.data.faults import (
    Box,
    DataFaults,
    checked_box,
    looks_normalised,
    size_fault,
)
from drcnn.data.formats.classes import require_class_names
from drcnn.data.formats.coco_file import list_of, read_json, value_of
from drcnn.data.formats.coco_layout import find_files, image_path, without_root
from drcnn.data.images import ImageFile, inspect
from drcnn.plain_text import shown

__all__ = ["read_coco"]

# An annotated area is at most so many times its box's, through rounding, and at least so much of it, unless
# an outline explains it.
MOST_AREA, LEAST_AREA = 1.1, 0.01
# The smallest that a table holds exactly, as float32.
SMALLEST_AREA = 2.0**-126

Entries = list[tuple[str, Any]]


@dataclass(frozen=True)
class _Categories:
    """The classes, the label of each category id, and the id that stands for each class."""

    classes: list[str]
    labels: dict[int, int]
    ids: list[int]


def read_coco(folder: Path, split: str, faults: DataFaults) -> Annotations:
    """Read one split.

    Boxes are COCO's ``x, y, width, height`` turned into corners. Those with ``iscrowd`` or ``ignore`` are
    kept and marked as ignored. Images without a box are kept: they count in evaluation. Entries of the same
    file are one image. An area that is missing, or that the box rules out, is replaced by the box's own.

    Args:
        folder: of the data.
        split: ``train`` finds ``instances_train.json``, or else the one ``instances_train*.json`` with the
            latest year.
        faults: collects every fault and warning. If it skips, an image with any fault is left out, and every
            image is decoded once to find damage (a quarter of an hour on one core for COCO), so that training
            finds none.

    Raises:
        DataError: the folder, the file or an image is missing or damaged, an entry lacks a key, or a box is
            inverted or outside its image.
    """
    path, images = find_files(folder, split)
    content = read_json(path)
    entries: dict[int, Entries] = defaultdict(list)
    used: Counter[Any] = Counter()
    for position, entry in enumerate(list_of(content, "annotations", path)):
        where = f"{path}: annotations[{position}]"
        entries[value_of(entry, "image_id", int, where)].append((where, entry))
        category = entry.get("category_id")
        if isinstance(category, int):
            used[category] += 1
    categories = _read_categories(content, path, used, faults)
    records = []
    for place, image in _merged(list_of(content, "images", path), path, entries, faults):
        record = _read_image(image, place, images, entries, categories, faults)
        if record is not None:
            records.append(record)
    for image_id, ((where, _), *_) in entries.items():
        faults.add(
            [f"{where}: image_id {shown(image_id)} is not among the images; add it or remove the entry"]
        )
    if not records:
        raise DataError(f"{path}: has no usable image")
    return Annotations.from_records(
        records,
        categories.classes,
        skipped=faults.messages,
        category_ids=categories.ids,
    )


def _read_categories(
    content: dict[str, Any], path: Path, used: Counter[Any], faults: DataFaults
) -> _Categories:
    """Read the categories; of several with one name, the most used one's id stands for the class."""
    names: dict[int, str] = {}
    listed = without_root(list_of(content, "categories", path), list_of(content, "annotations", path))
    for position, entry in enumerate(listed):
        where = f"{path}: categories[{position}]"
        category = value_of(entry, "id", int, where)
        if category in names:
            raise DataError(f"{where}: id {category} occurs twice; give every category its own")
        names[category] = value_of(entry, "name", str, where).strip()
        require_class_names([names[category]], where)
    if not names:
        raise DataError(f"{path}: 'categories' is empty; expected the classes")
    ids_of: dict[str, list[int]] = {}
    for category in sorted(names):
        ids_of.setdefault(names[category], []).append(category)
    chosen = {
        name: max(ids, key=lambda category: (used[category], -category)) for name, ids in ids_of.items()
    }
    for name, ids in ids_of.items():
        if len(ids) > 1:
            faults.warn(
                "categories of one name, read as one class",
                f"{path}: categories {', '.join(map(str, ids))} are all named {name!r}; they are one class",
            )
    # In the order of the lowest id, so that splits that use different ones agree.
    classes = list(ids_of)
    index = {name: label for label, name in enumerate(classes)}
    labels = {category: index[name] for category, name in names.items()}
    return _Categories(classes, labels, [chosen[name] for name in classes])


def _merged(
    images: list[Any], path: Path, entries: dict[int, Entries], faults: DataFaults
) -> list[tuple[str, Any]]:
    """Return the image entries with their places, one for each file; the first gets the others' boxes."""
    merged: dict[str, tuple[str, Any]] = {}
    ids: set[int] = set()
    for position, image in enumerate(images):
        where = f"{path}: images[{position}]"
        image_id, name = value_of(image, "id", int, where), value_of(image, "file_name", str, where)
        if image_id in ids:
            raise DataError(f"{path}: two images have the same id; give every image its own")
        ids.add(image_id)
        if name not in merged:
            merged[name] = where, image
            continue
        first = merged[name][1]["id"]
        entries[first] += entries.pop(image_id, [])
        faults.warn(
            "further entries of an image, read as one",
            f"{where}: file_name {shown(name)} is that of image {first} too; both are read as one image",
        )
    return list(merged.values())


def _read_image(
    image: Any,
    where: str,
    folder: Path,
    entries: dict[int, Entries],
    categories: _Categories,
    faults: DataFaults,
) -> Record | None:
    """Return the image, or none if it has a fault that is skipped.

    Removes the image's annotations from ``entries``: those that remain at the end belong to no image.
    """
    own_entries = entries.pop(image["id"], [])
    try:
        path = image_path(folder, image["file_name"], where)
        file = inspect(str(path), decode_all=faults.skip)
    except DataError as error:
        faults.add([str(error)])
        return None
    stated = _stated_size(image)
    messages = size_fault(str(path), file, stated, where)
    boxes: list[Box] = []
    labels, ignore, areas = [], [], []
    for place, entry in own_entries:
        try:
            box = _box(entry, file, place)
            label = _label(entry, categories, place)
            is_ignored = _is_ignored(entry, place, faults)
        except DataError as error:
            messages.append(str(error))
            continue
        if box is None:
            # Nothing can match it and no regression target exists, but the rest of the image is usable.
            faults.warn("boxes of zero area, left out", f"{place}: box of zero area left out")
            continue
        boxes.append(box)
        labels.append(label)
        ignore.append(is_ignored)
        areas.append(_area(entry, box, place, faults))
    if faults.add(messages):
        return None
    faults.warn_of_image(str(path), file, stated)
    return Record(
        str(image["id"]),
        file.width,
        file.height,
        boxes,
        labels,
        ignore,
        areas,
        path=str(path),
        digest=file.digest,
    )


def _stated_size(image: dict[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


def _box(entry: Any, file: ImageFile, where: str) -> Box | None:
    corners = _corners(entry, where)
    if looks_normalised(corners, *file.size):
        raise DataError(
            f"{where}: bbox {shown(entry['bbox'])} seems to be in fractions of the image, expected pixels; "
            "multiply it by the image's size"
        )
    return checked_box(corners, *file.size, where)


def _label(entry: Any, categories: _Categories, where: str) -> int:
    category = value_of(entry, "category_id", int, where)
    if category not in categories.labels:
        raise DataError(f"{where}: category_id {shown(category)} is not among the categories; correct it")
    return categories.labels[category]


def _is_ignored(entry: Any, where: str, faults: DataFaults) -> bool:
    is_crowd = bool(value_of(entry, "iscrowd", int, where)) if "iscrowd" in entry else False
    if entry.get("ignore") and not is_crowd:
        faults.warn(
            "boxes marked 'ignore', read like crowds",
            f"{where}: 'ignore' is {shown(entry['ignore'])}; the box is neither trained on nor counted",
        )
        return True
    return is_crowd


def _area(entry: Any, box: Box, where: str, faults: DataFaults) -> float:
    """The annotated area, of a mask, where the box allows it; else the box's own."""
    own = (box[2] - box[0]) * (box[3] - box[1])
    area = entry.get("area")
    least = 0.0 if entry.get("segmentation") else LEAST_AREA * own
    if isinstance(area, int | float) and max(least, SMALLEST_AREA) <= area <= MOST_AREA * own + 2:
        return float(area)
    faults.warn(
        "areas missing or ruled out by the box, replaced by its own",
        f"{where}: area is {shown(area)}, the box has {own:g} square pixels; the box's is used",
    )
    return own


def _corners(entry: Any, where: str) -> Box:
    bbox = value_of(entry, "bbox", list, where)
    if len(bbox) != 4 or not all(isinstance(value, int | float) for value in bbox):
        raise DataError(f"{where}: bbox is {shown(bbox)}, expected [x, y, width, height]; correct it")
    try:
        x, y, width, height = map(float, bbox)
    except OverflowError:
        raise DataError(f"{where}: bbox is {shown(bbox)}, expected pixels of the image; correct it") from None
    return x, y, x + width, y + height
