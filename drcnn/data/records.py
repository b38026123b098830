"""One image with its boxes, as a reader returns it, and as a row of the annotation table."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Record", "as_row"]


@dataclass(frozen=True)
class Record:
    """One image and its G boxes, as a reader returns them.

    Attributes:
        id: unique in the split.
        width: pixels of the original image; ``height`` likewise.
        boxes: [G, 4], xyxy absolute pixels.
        labels: [G], 0-based class.
        ignore: [G], VOC's difficult or COCO's iscrowd; ``None`` means no box is.
        areas: [G], in square pixels; ``None`` means each box's own area.
        path: absolute path of the image file, or
        image: its encoded bytes.
        digest: SHA-256 of the encoded image; ``None`` takes that of ``image``.
    """

    id: str
    width: int
    height: int
    boxes: ArrayLike
    labels: ArrayLike
    ignore: ArrayLike | None = None
    areas: ArrayLike | None = None
    path: str | None = None
    image: bytes | None = None
    digest: bytes | None = None


def as_row(record: Record) -> dict[str, Any]:
    """Return the values of a row of the annotation table, by column.

    Raises:
        ValueError: there are not as many labels, flags and areas as boxes.
    """
    boxes = np.asarray(record.boxes, dtype=np.float32).reshape(-1, 4)
    labels = np.asarray(record.labels, dtype=np.int32).reshape(-1)
    if record.ignore is None:
        ignore = np.zeros(len(boxes), dtype=np.bool_)
    else:
        ignore = np.asarray(record.ignore, dtype=np.bool_).reshape(-1)
    if record.areas is None:
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    else:
        areas = np.asarray(record.areas, dtype=np.float32).reshape(-1)
    if not len(boxes) == len(labels) == len(ignore) == len(areas):
        raise ValueError(
            f"image {record.id!r}: {len(boxes)} boxes, {len(labels)} labels, {len(ignore)} ignore flags "
            f"and {len(areas)} areas; there must be as many of each"
        )
    return {
        "id": record.id,
        "path": record.path,
        "image": record.image,
        "digest": record.digest or hashlib.sha256(record.image or b"").digest(),
        "width": record.width,
        "height": record.height,
        "boxes": list(boxes),
        "labels": labels,
        "ignore": ignore,
        "areas": areas,
    }
