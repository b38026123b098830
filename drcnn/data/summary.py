"""What a data set holds, by split and class: images, objects, and the sides of their boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drcnn.data.annotations import Annotations

__all__ = ["ClassCounts", "counts_by_class"]

Quartiles = tuple[float, float, float]


@dataclass(frozen=True)
class ClassCounts:
    """One class in one split, or all classes together.

    Attributes:
        name: of the class; ``None`` for all of them.
        split: ``train``, ``val`` or ``test``.
        images: that have an object of it; all images for all classes.
        objects: to train on and to find.
        ignored: further objects, VOC's difficult or COCO's crowds.
        widths: lower quartile, median and upper quartile over all its boxes, in pixels; ``None`` without any.
        heights: likewise.
    """

    name: str | None
    split: str
    images: int
    objects: int
    ignored: int
    widths: Quartiles | None
    heights: Quartiles | None


def counts_by_class(tables: Mapping[str, Annotations]) -> list[ClassCounts]:
    """Count each split as a whole, then each class that has objects anywhere, its splits side by side.

    Args:
        tables: by ``train``, ``val`` and ``test``.
    """
    wholes = [_counts(split, table, None) for split, table in tables.items()]
    classes = next(iter(tables.values())).classes if tables else ()
    counted = [
        [_counts(split, table, name) for split, table in tables.items() if name in table.classes]
        for name in classes
    ]
    present = [rows for rows in counted if any(row.objects or row.ignored for row in rows)]
    return [*wholes, *(row for rows in present for row in rows)]


def _counts(split: str, table: Annotations, name: str | None) -> ClassCounts:
    everything = np.ones(len(table.all_labels), np.bool_)
    chosen = everything if name is None else table.all_labels == table.classes.index(name)
    image = np.repeat(np.arange(len(table)), np.diff(table.offsets))[chosen]
    boxes, ignored = table.all_boxes[chosen], int(table.all_ignore[chosen].sum())
    return ClassCounts(
        name,
        split,
        images=len(table) if name is None else len(np.unique(image)),
        objects=len(boxes) - ignored,
        ignored=ignored,
        widths=_quartiles(boxes[:, 2] - boxes[:, 0]),
        heights=_quartiles(boxes[:, 3] - boxes[:, 1]),
    )


def _quartiles(sides: NDArray[np.float32]) -> Quartiles | None:
    if not len(sides):
        return None
    lower, middle, upper = np.quantile(sides, (0.25, 0.5, 0.75)).round(1).tolist()
    return lower, middle, upper
