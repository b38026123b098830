"""COCO's metric, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from drcnn.data.annotations import Annotations
from drcnn.engine.metrics import Metrics, mean_of_present, summarise

__all__ = ["CocoMetric", "coco_metrics"]

# Positions in COCO's areas: all, up to 32², up to 96², above.
AREAS = {"AP_small": 1, "AP_medium": 2, "AP_large": 3}


def coco_metrics(annotations: Annotations, detections: pa.Table) -> Metrics:
    """Return COCO's metrics by pycocotools: boxes, 100 detections an image, 101 recall points.

    Objects marked ``ignore`` (VOC's difficult, COCO's crowd) are evaluated as COCO's crowds: a detection on
    one counts neither for nor against. AP is the mean over IoU 0.50:0.05:0.95 and the classes that occur.

    Args:
        annotations: the split.
        detections: an Arrow table as ``drcnn.engine.evaluate`` describes it, in any order.
    """
    return CocoMetric(annotations)(detections)


class CocoMetric:
    """``coco_metrics`` for many tables of detections on one split: its objects are indexed once."""

    def __init__(self, annotations: Annotations) -> None:
        self._classes = annotations.classes
        self._number = {image_id: number for number, image_id in enumerate(annotations.ids, start=1)}
        self._truth = self._index(_truth_entries(annotations))

    def __call__(self, detections: pa.Table) -> Metrics:
        """Return the metrics of these detections."""
        evaluation = COCOeval(self._truth, self._index(_detection_entries(detections, self._number)), "bbox")
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            evaluation.evaluate()
            evaluation.accumulate()
        # [IoU threshold, recall, class, area, max detections]; -1 where a class or area has no object.
        precision = np.where(evaluation.eval["precision"] < 0, np.nan, evaluation.eval["precision"])[..., -1]
        metrics = summarise(precision[..., 0].mean(axis=1), self._classes)
        sizes = {name: mean_of_present(precision[..., area]) for name, area in AREAS.items()}
        present = {name: value for name, value in sizes.items() if not np.isnan(value)}
        return replace(metrics, summary={**metrics.summary, **present})

    def _index(self, entries: list[dict[str, Any]]) -> COCO:
        coco = COCO()
        coco.dataset = {
            "images": [{"id": number} for number in self._number.values()],
            "annotations": [{**entry, "id": position} for position, entry in enumerate(entries, start=1)],
            "categories": [{"id": label, "name": name} for label, name in enumerate(self._classes)],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        return coco


def _truth_entries(annotations: Annotations) -> list[dict[str, Any]]:
    entries = []
    for row in range(len(annotations)):
        boxes, areas = annotations.boxes(row), annotations.areas(row)
        for box, label, ignore, area in zip(
            boxes, annotations.labels(row), annotations.ignore(row), areas, strict=True
        ):
            entries.append(_entry(row + 1, box, int(label), area=float(area), iscrowd=int(ignore)))
    return entries


def _detection_entries(detections: pa.Table, number: dict[str, int]) -> list[dict[str, Any]]:
    boxes = np.stack([detections[name].to_numpy() for name in ("x1", "y1", "x2", "y2")], axis=1).astype(float)
    images = [number[image_id] for image_id in detections["image_id"].to_pylist()]
    labels, scores = detections["label"].to_pylist(), detections["score"].to_pylist()
    return [
        _entry(image, box, label, score=score, iscrowd=0, area=float((box[2] - box[0]) * (box[3] - box[1])))
        for image, box, label, score in zip(images, boxes, labels, scores, strict=True)
    ]


def _entry(image: int, box: NDArray[Any], label: int, **more: float) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(side) for side in box)
    return {"image_id": image, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], **more}
