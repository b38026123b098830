"""Write any data as COCO: a JSON file a split, and its images."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drcnn.data.annotations import Annotations, DataError
from drcnn.files import write_text

__all__ = ["write_coco"]


def write_coco(tables: Mapping[str, Annotations], output: Path) -> None:
    """Write ``annotations/instances_{split}.json`` and ``{split}/`` with the images.

    Images are hard links where the file system allows, which take no space, else copies. Ignored objects
    (VOC's difficult) become ``iscrowd``. ``read_coco`` reads the same classes, boxes and areas.

    Args:
        tables: by split.
        output: a folder that does not exist, or is empty.

    Raises:
        DataError: the folder holds something.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"{output}: exists and is not empty; give another --output")
    for split, table in tables.items():
        (output / split).mkdir(parents=True)
        names = [_place(table, row, output / split) for row in range(len(table))]
        path = output / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        write_text(path, json.dumps(_content(table, names)))


def _place(table: Annotations, row: int, folder: Path) -> str:
    """Put an image into the folder; return its name there."""
    source = table.source(row)
    if isinstance(source, bytes):
        name = f"{table.ids[row]}.png"
        (folder / name).write_bytes(source)
        return name
    # A link would break with what it leads to.
    file = Path(source)
    name = file.name
    if (folder / name).exists():
        name = f"{file.stem}-{row}{file.suffix}"
    try:
        os.link(file.resolve(), folder / name)
    except OSError:
        shutil.copyfile(file, folder / name)
    return name


def _content(table: Annotations, names: list[str]) -> dict[str, Any]:
    are_numbers = all(name.isdecimal() and name.isascii() for name in table.ids)
    ids = [int(name) if are_numbers else number for number, name in enumerate(table.ids, start=1)]
    if len(set(ids)) < len(ids):
        ids = list(range(1, len(ids) + 1))
    categories = table.category_ids or tuple(range(1, len(table.classes) + 1))
    images = [
        {
            "id": ids[row],
            "file_name": name,
            "width": int(table.widths[row]),
            "height": int(table.heights[row]),
        }
        for row, name in enumerate(names)
    ]
    annotations: list[dict[str, Any]] = []
    for row in range(len(table)):
        objects = zip(table.boxes(row), table.labels(row), table.ignore(row), table.areas(row), strict=True)
        for box, label, is_ignored, area in objects:
            # As float64, so that x + width is x2 again.
            x1, y1, x2, y2 = box.tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": ids[row],
                    "category_id": categories[label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(area),
                    "iscrowd": int(is_ignored),
                }
            )
    named = [{"id": number, "name": name} for number, name in zip(categories, table.classes, strict=True)]
    return {"images": images, "annotations": annotations, "categories": named}
