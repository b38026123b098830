"""Average precision computed independently: by pycocotools, and by VOC2007's rule in exact fractions."""

from __future__ import annotations

import contextlib
import io
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from drcnn.data.annotations import Annotations
from drcnn.engine.metrics import AT_IOU, Metrics

CORNERS = ("x1", "y1", "x2", "y2")
AREAS = ("all", "small", "medium", "large")


def pycocotools_precision(annotations: Annotations, detections: pa.Table) -> NDArray[np.float64]:
    """float64[10, 101, K, 4]: precision by IoU threshold, recall, class and area; nan without objects."""
    number = {image_id: row for row, image_id in enumerate(annotations.ids)}
    objects = [
        _entry(row, int(label), box.tolist(), area=float(area), iscrowd=int(ignore))
        for row in range(len(annotations))
        for box, label, area, ignore in zip(
            annotations.boxes(row),
            annotations.labels(row),
            annotations.areas(row),
            annotations.ignore(row),
            strict=True,
        )
    ]
    results = []
    for detection in detections.to_pylist():
        x1, y1, x2, y2 = box = [detection[side] for side in CORNERS]
        entry = _entry(number[detection["image_id"]], detection["label"], box, area=(x2 - x1) * (y2 - y1))
        results.append({**entry, "score": detection["score"], "iscrowd": 0})
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(_index(annotations, objects), _index(annotations, results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]
    return np.where(precision < 0, np.nan, precision)


def pycocotools_metrics(annotations: Annotations, detections: pa.Table) -> Metrics:
    precision = pycocotools_precision(annotations, detections)
    summary = {"AP": _mean(precision[..., 0])}
    summary |= {name: _mean(precision[at, ..., 0]) for name, at in AT_IOU.items()}
    summary |= {f"AP_{AREAS[area]}": _mean(precision[..., area]) for area in (1, 2, 3)}
    by_class = {name: _mean(precision[:, :, k, 0]) for k, name in enumerate(annotations.classes)}
    return Metrics(_without_nan(summary), _without_nan(by_class))


def exact_voc07_metrics(annotations: Annotations, detections: pa.Table) -> Metrics:
    """``voc07_metrics`` in exact fractions and plain loops, an image and a detection at a time."""
    thresholds = [Fraction(percent, 100) for percent in range(50, 100, 5)]
    ap = np.full((10, len(annotations.classes)), np.nan)
    for label in range(len(annotations.classes)):
        objects = _objects_of(annotations, label)
        if not all(ignored for _, _, ignored in objects):
            rows = [row for row in detections.to_pylist() if row["label"] == label]
            ranked = sorted(rows, key=lambda row: (-row["score"], annotations.ids.index(row["image_id"])))
            matches = [_best_match(annotations, objects, row) for row in ranked]
            ap[:, label] = [_eleven_points(objects, matches, threshold) for threshold in thresholds]
    summary = {"AP": _mean(ap), **{name: _mean(ap[at]) for name, at in AT_IOU.items()}}
    by_class = {name: _mean(ap[:, label]) for label, name in enumerate(annotations.classes)}
    return Metrics(_without_nan(summary), _without_nan(by_class))


Object = tuple[int, list[float], bool]  # row of the image, box, ignored
Match = tuple[int, Fraction] | None  # object and overlap


def _objects_of(annotations: Annotations, label: int) -> list[Object]:
    """The objects of a class. Those to find come first: of equal overlaps, max takes the first."""
    objects = [
        (row, box.tolist(), bool(ignored))
        for row in range(len(annotations))
        for box, other, ignored in zip(
            annotations.boxes(row), annotations.labels(row), annotations.ignore(row), strict=True
        )
        if other == label
    ]
    return sorted(objects, key=lambda entry: entry[2])


def _best_match(annotations: Annotations, objects: list[Object], detection: dict[str, Any]) -> Match:
    image = annotations.ids.index(detection["image_id"])
    box = [detection[side] for side in CORNERS]
    overlaps = [(place, iou(box, other)) for place, (row, other, _) in enumerate(objects) if row == image]
    return max(overlaps, key=lambda overlap: overlap[1], default=None)


def iou(left: list[float], right: list[float]) -> Fraction:
    a, b = [Fraction(side) for side in left], [Fraction(side) for side in right]
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, Fraction(0)) * max(height, Fraction(0))
    return common / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - common)


def _eleven_points(objects: list[Object], matches: list[Match], threshold: Fraction) -> float:
    count = sum(not ignored for _, _, ignored in objects)
    taken: set[int] = set()
    correct = wrong = 0
    curve: list[tuple[float, float]] = []
    for match in matches:
        if match is None or match[1] < threshold:
            wrong += 1
        elif objects[match[0]][2]:
            pass
        elif match[0] in taken:
            wrong += 1
        else:
            taken.add(match[0])
            correct += 1
        curve.append((correct / count, correct / max(correct + wrong, 1)))
    points = [[precision for recall, precision in curve if recall >= tenth * 0.1] for tenth in range(11)]
    return sum(max(precisions, default=0) for precisions in points) / 11


def _entry(image: int, label: int, box: list[float], **more: float) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    return {"image_id": image, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], **more}


def _index(annotations: Annotations, entries: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": row} for row in range(len(annotations))],
        "annotations": [{**entry, "id": number} for number, entry in enumerate(entries, start=1)],
        "categories": [{"id": label, "name": name} for label, name in enumerate(annotations.classes)],
    }
    coco.createIndex()
    return coco


def _mean(values: NDArray[np.float64]) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")


def _without_nan(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if not np.isnan(value)}
