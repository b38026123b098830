"""Read COCO's annotation files (``drcnn.data.coco_layout`` says which).

Category ids become labels 0, 1, 2, ... in ascending order; ``Annotations.category_ids`` maps them back.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from drcnn.data.annotations import Annotations, DataError, Record
from drcnn.data.coco_layout import find_files, image_path, without_root
from drcnn.data.faults import Box, DataFaults, checked_box
from drcnn.data.images import decode, file_digest, read_size

__all__ = ["read_coco"]


def read_coco(folder: Path, split: str, faults: DataFaults) -> Annotations:
    """Read one split.

    Boxes are COCO's ``x, y, width, height`` turned into corners. ``iscrowd`` boxes are kept and marked as
    ignored. Images without a box are kept: they count in evaluation.

    Args:
        folder: of the data.
        split: ``train`` finds ``instances_train.json``, or else the one ``instances_train*.json`` with the
            latest year.
        faults: collects every fault. If it skips, an image with any fault is left out, and every image is
            decoded once to find damage (a quarter of an hour on one core for COCO), so that training finds
            none.

    Raises:
        DataError: the folder, the file or an image is missing or damaged, an entry lacks a key, or a box is
            inverted or outside its image.
    """
    path, images = find_files(folder, split)
    content = _read_json(path)
    category_ids, classes = _read_categories(content, path)
    index = {category: label for label, category in enumerate(category_ids)}
    entries = defaultdict(list)
    for position, entry in enumerate(_list(content, "annotations", path)):
        where = f"{path}: annotations[{position}]"
        entries[_get(entry, "image_id", int, where)].append((where, entry))
    records = []
    image_entries = _list(content, "images", path)
    if len({_get(image, "id", int, f"{path}: images") for image in image_entries}) < len(image_entries):
        raise DataError(f"{path}: two images have the same id; give every image its own")
    for position, image in enumerate(image_entries):
        record, messages, empty_boxes = _read_image(
            image, f"{path}: images[{position}]", images, entries, index, decode_all=faults.skip
        )
        if faults.add(messages) or record is None:
            continue
        for message in empty_boxes:
            faults.note(message)
        records.append(record)
    for image_id, ((where, _), *_) in entries.items():
        faults.add([f"{where}: image_id {image_id} is not among the images; add it or remove the entry"])
    if not records:
        raise DataError(f"{path}: has no usable image")
    return Annotations.from_records(records, classes, skipped=faults.messages, category_ids=category_ids)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); restore the file") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object with images, annotations and categories")
    return content


def _read_categories(content: dict[str, Any], path: Path) -> tuple[list[int], list[str]]:
    names: dict[int, str] = {}
    categories = _list(content, "categories", path)
    for position, entry in enumerate(without_root(categories, _list(content, "annotations", path))):
        where = f"{path}: categories[{position}]"
        category = _get(entry, "id", int, where)
        if category in names:
            raise DataError(f"{where}: id {category} occurs twice; give every category its own")
        names[category] = _get(entry, "name", str, where)
    if not names:
        raise DataError(f"{path}: 'categories' is empty; expected the classes")
    ids = sorted(names)
    return ids, [names[category] for category in ids]


def _read_image(
    image: Any,
    where: str,
    folder: Path,
    entries: dict[int, list[tuple[str, Any]]],
    index: dict[int, int],
    *,
    decode_all: bool,
) -> tuple[Record | None, list[str], list[str]]:
    """Return the image (unless it has a fault), messages about its faults, and about its boxes without area.

    Removes the image's annotations from ``entries``: those that remain at the end belong to no image.
    """
    image_id = _get(image, "id", int, where)
    own_entries = entries.pop(image_id, [])
    file_name = _get(image, "file_name", str, where)
    faults: list[str] = []
    try:
        file = image_path(folder, file_name, where)
        width, height = read_size(str(file))
        if decode_all:
            decode(str(file))
    except DataError as error:
        return None, [str(error)], []
    boxes: list[Box] = []
    labels, crowd, areas, empty_boxes = [], [], [], []
    for place, entry in own_entries:
        try:
            box = checked_box(_corners(entry, place), width, height, place)
            category = _get(entry, "category_id", int, place)
            if category not in index:
                raise DataError(f"{place}: category_id {category} is not among the categories; correct it")
            iscrowd = bool(_get(entry, "iscrowd", int, place)) if "iscrowd" in entry else False
            area = float(_get(entry, "area", (int, float), place)) if "area" in entry else None
        except DataError as error:
            faults.append(str(error))
            continue
        if box is None:
            # Nothing can match it and no regression target exists, but the rest of the image is usable.
            empty_boxes.append(f"{place}: box of zero area left out")
            continue
        boxes.append(box)
        labels.append(index[category])
        crowd.append(iscrowd)
        areas.append((box[2] - box[0]) * (box[3] - box[1]) if area is None else area)
    record = Record(
        str(image_id),
        width,
        height,
        boxes,
        labels,
        crowd,
        areas,
        path=str(file),
        digest=file_digest(str(file)),
    )
    return record, faults, empty_boxes


def _corners(entry: Any, where: str) -> Box:
    bbox = _get(entry, "bbox", list, where)
    if len(bbox) != 4 or not all(isinstance(value, int | float) for value in bbox):
        raise DataError(f"{where}: bbox is {bbox!r}, expected [x, y, width, height]; correct it")
    x, y, width, height = (float(value) for value in bbox)
    return x, y, x + width, y + height


def _list(content: dict[str, Any], key: str, path: Path) -> list[Any]:
    value: list[Any] = _get(content, key, list, f"{path}")
    return value


def _get(entry: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise DataError(f"{where}: has no {key!r}; expected a COCO instances file")
    value = entry[key]
    if not isinstance(value, kind):
        raise DataError(f"{where}: {key!r} is {value!r}, expected {_kind_name(kind)}; correct it")
    return value


def _kind_name(kind: type | tuple[type, ...]) -> str:
    names = {int: "a whole number", str: "text", list: "a list"}
    return "a number" if isinstance(kind, tuple) else names[kind]
