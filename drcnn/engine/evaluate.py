"""Detect the objects of a whole split, and evaluate the detections with the configured metric.

Detections are an Arrow table with a row for each detection, in pixels of the original images: ``image_id``
(string), ``label`` (int32, class 0..K-1), ``score`` and ``x1``, ``y1``, ``x2``, ``y2`` (float32). Statistics
and test-time sweeps read it again from Parquet.

    metric = make_metric(config.evaluation, annotations)
    metric(detect_split(detector, loader, annotations, device)).summary["AP"]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from drcnn.batch import Batch
from drcnn.config import EvaluationConfig
from drcnn.data.annotations import Annotations
from drcnn.data.loader import BatchLoader
from drcnn.detector.detector import DecoupledRCNN
from drcnn.engine.average_precision import coco_metrics, voc07_metrics
from drcnn.engine.metrics import Metrics
from drcnn.engine.workers import gather

__all__ = ["Metric", "Metrics", "coco_metrics", "detect_split", "make_metric", "voc07_metrics"]

Metric = Callable[[pa.Table], Metrics]


def make_metric(config: EvaluationConfig, annotations: Annotations) -> Metric:
    """Return the configured metric as a function of a table of detections on this split."""
    return partial(voc07_metrics if config.metric == "voc07" else coco_metrics, annotations)


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
    # A worker may have had no image at all.
    parts = [part for parts in gather(parts) for part in parts]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
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
