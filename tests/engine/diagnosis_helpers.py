"""Small splits of 100 x 100 pixels and their detections, written by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from drcnn.data.annotations import Annotations, Record

CLASSES = ("cat", "dog", "owl")
Box = Sequence[float]


def split(*images: Sequence[tuple[str, Box]], ignored: Sequence[int] = ()) -> Annotations:
    """Images i0, i1 ... with their objects; ``ignored`` are numbers of objects of the first image."""
    records = []
    for number, objects in enumerate(images):
        labels = [CLASSES.index(name) for name, _ in objects]
        ignore = [number == 0 and at in ignored for at in range(len(objects))]
        boxes = [list(box) for _, box in objects]
        records.append(Record(f"i{number}", 100, 100, boxes, labels, ignore=ignore, path=f"i{number}.jpg"))
    return Annotations.from_records(records, CLASSES)


def found(*detections: tuple[int, str, float, Box]) -> pa.Table:
    """Detections: number of the image, class, score and box."""
    boxes = np.array([box for *_, box in detections], dtype=np.float32).reshape(-1, 4)
    columns = dict(zip(("x1", "y1", "x2", "y2"), boxes.T, strict=True))
    return pa.table(
        {
            "image_id": pa.array([f"i{number}" for number, *_ in detections], pa.string()),
            "label": np.array([CLASSES.index(name) for _, name, *_ in detections], dtype=np.int32),
            "score": np.array([score for _, _, score, _ in detections], dtype=np.float32),
            **columns,
        }
    )
