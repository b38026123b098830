"""A split of COCO's size with detections, all random, to time a metric."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from drcnn.data.annotations import Annotations, Record

__all__ = ["coco_sized"]

# COCO's val2017 has as many; a detector of the paper gives at most 100 detections an image.
METRIC_IMAGES, METRIC_OBJECTS, METRIC_CLASSES, METRIC_DETECTIONS = 5000, 36_000, 80, 100


def coco_sized(
    images: int = METRIC_IMAGES,
    objects: int = METRIC_OBJECTS,
    classes: int = METRIC_CLASSES,
    detections: int = METRIC_DETECTIONS,
) -> tuple[Annotations, pa.Table]:
    """Return random objects and detections of COCO's size, to time a metric.

    Of an image's detections, some lie near its objects, the others anywhere; an image has objects of few
    classes, and most of its detections are of these, as a detector's are.

    Args:
        images: of the split; ``objects`` and ``classes`` likewise.
        detections: of each image.
    """
    rng = np.random.default_rng(0)
    own = rng.multinomial(objects, np.full(images, 1 / images))
    of_image = np.repeat(np.arange(images), own)
    # A few classes are frequent: COCO has 262,465 persons and 198 hair driers.
    frequency = 1 / np.arange(1, classes + 1)
    labels = rng.choice(classes, objects, p=frequency / frequency.sum())
    boxes = _boxes(rng, objects)
    cuts = own.cumsum()[:-1]
    records = [
        Record(id=f"{row:05d}", width=640, height=640, boxes=image_boxes, labels=image_labels, path="none")
        for row, (image_boxes, image_labels) in enumerate(
            zip(np.split(boxes, cuts), np.split(labels, cuts), strict=True)
        )
    ]

    row = np.repeat(np.arange(images), detections)
    label, corners = rng.integers(0, classes, len(row)), _boxes(rng, len(row))
    # Half of the detections follow an object of their image, where there is one.
    follows = (rng.random(len(row)) < 0.5) & (own[row] > 0)
    firsts = np.searchsorted(of_image, row)
    target = (firsts + rng.integers(0, 1 << 30, len(row)) % np.maximum(own[row], 1))[follows]
    label[follows] = labels[target]
    size = np.tile(boxes[target, 2:] - boxes[target, :2], 2)
    corners[follows] = boxes[target] + rng.normal(0, 0.1, size.shape) * size
    columns = {
        name: corners[:, side].astype(np.float32) for side, name in enumerate(("x1", "y1", "x2", "y2"))
    }
    ids = pa.array([f"{number:05d}" for number in row], pa.string())
    score = rng.random(len(row)).astype(np.float32)
    return (
        Annotations.from_records(records, classes=[str(number) for number in range(classes)]),
        pa.table({"image_id": ids, "label": label.astype(np.int32), "score": score, **columns}),
    )


def _boxes(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """float64[count, 4], xyxy, with sides of 8 to 400 pixels."""
    size = np.exp(rng.uniform(np.log(8), np.log(400), (count, 2)))
    corner = rng.uniform(0, 640 - size)
    return np.concatenate([corner, corner + size], axis=1)
