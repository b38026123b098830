"""Detections of a whole split, and COCO's metrics of them.

Detections are an Arrow table in pixels of the original images, a row a detection: ``image_id`` (string),
``label`` (int32, class 0..K-1), ``score`` and ``x1``, ``y1``, ``x2``, ``y2`` (float32). Statistics and
test-time sweeps read it again from Parquet.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from drcnn.batch import Batch
from drcnn.data.annotations import Annotations
from drcnn.data.loader import BatchLoader
from drcnn.detector.detector import DecoupledRCNN

__all__ = ["Metrics", "coco_metrics", "detect_split"]

# Positions in COCO's ten IoU thresholds 0.50, 0.55 ... 0.95.
AT_IOU = {"AP50": 0, "AP60": 2, "AP70": 4, "AP75": 5, "AP80": 6, "AP90": 8}
AREAS = {"AP_small": 1, "AP_medium": 2, "AP_large": 3}


@dataclass(frozen=True)
class Metrics:
    """Average precision as fractions of 1.

    Attributes:
        summary: AP, AP50 ... AP90, and AP_small, AP_medium, AP_large where the split has such objects.
        per_class: AP of each class that the split has.
    """

    summary: dict[str, float]
    per_class: dict[str, float]


@torch.inference_mode()
def detect_split(
    detector: DecoupledRCNN, loader: BatchLoader, annotations: Annotations, device: torch.device
) -> pa.Table:
    """Return a split's detections, by row and falling score; the same on every worker.

    Each worker detects on its own share of every batch (``loader`` knows which).
    """
    was_training = detector.training
    detector.eval()
    parts = [_detect_batch(detector, batch.to(device)) for batch in loader]
    detector.train(was_training)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else None
    if dist.is_initialized() and dist.get_world_size() > 1:
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, columns)
        present = [part for part in gathered if part is not None]
        columns = {name: np.concatenate([part[name] for part in present]) for name in present[0]}
    assert columns is not None, "a split holds at least one image"
    # An order that does not depend on how the images were batched or shared out.
    order = np.lexsort((-columns["score"], columns["row"]))
    columns = {name: values[order] for name, values in columns.items()}
    image_ids = np.asarray(annotations.ids, dtype=object)[columns.pop("row")]
    return pa.table({"image_id": pa.array(image_ids, pa.string()), **columns})


def _detect_batch(detector: DecoupledRCNN, batch: Batch) -> dict[str, NDArray[Any]]:
    found = detector.detect(batch)
    boxes = found.boxes / batch.scales.repeat(1, 2)[found.image]
    columns = {
        "row": batch.rows[found.image],
        "label": found.labels.int(),
        "score": found.scores.float(),
        **dict(zip(("x1", "y1", "x2", "y2"), boxes.float().unbind(1), strict=True)),
    }
    return {name: values.cpu().numpy() for name, values in columns.items()}


def coco_metrics(annotations: Annotations, detections: pa.Table) -> Metrics:
    """Return COCO's metrics by pycocotools: boxes, 100 detections an image, 101 recall points.

    Objects marked ``ignore`` (VOC's difficult, COCO's crowd) are evaluated as COCO's crowds: a detection on
    one counts neither for nor against. AP is the mean over IoU 0.50:0.05:0.95 and the classes that occur.
    """
    number = {image_id: position for position, image_id in enumerate(annotations.ids, start=1)}
    categories = [{"id": label, "name": name} for label, name in enumerate(annotations.classes)]
    truth = _coco(_truth_entries(annotations), list(number.values()), categories)
    found = _coco(_detection_entries(detections, number), list(number.values()), categories)
    evaluation = COCOeval(truth, found, "bbox")
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation.evaluate()
        evaluation.accumulate()
    # [IoU threshold, recall, class, area, max detections]; -1 where a class or area has no object.
    precision = np.where(evaluation.eval["precision"] < 0, np.nan, evaluation.eval["precision"])[..., -1]
    summary = {"AP": _mean(precision[:, :, :, 0])}
    summary |= {name: _mean(precision[at, :, :, 0]) for name, at in AT_IOU.items()}
    summary |= {name: _mean(precision[:, :, :, area]) for name, area in AREAS.items()}
    per_class = {name: _mean(precision[:, :, label, 0]) for label, name in enumerate(annotations.classes)}
    return Metrics(
        {name: value for name, value in summary.items() if not np.isnan(value)},
        {name: value for name, value in per_class.items() if not np.isnan(value)},
    )


def _mean(values: NDArray[np.float64]) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")


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


def _coco(entries: list[dict[str, Any]], images: list[int], categories: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image} for image in images],
        "annotations": [{**entry, "id": position} for position, entry in enumerate(entries, start=1)],
        "categories": categories,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
