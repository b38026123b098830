"""Detect the objects of a whole split, and evaluate the detections with the configured metric.

Detections are an Arrow table with a row for each detection, in pixels of the original images: ``image_id``
(string), ``label`` (int32, class 0..K-1), ``score`` and ``x1``, ``y1``, ``x2``, ``y2`` (float32). Statistics
and test-time sweeps read it again from Parquet.

    metrics, detections = evaluate_split(detector, prepared.test, config, options)
    metrics.summary["AP"]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from drcnn.batch import Batch
from drcnn.config import Config, EvaluationConfig
from drcnn.data.annotations import Annotations
from drcnn.data.loader import BatchLoader, make_loader
from drcnn.detector.detector import DecoupledRCNN
from drcnn.detector.fused import unchanged_weights
from drcnn.engine.average_precision import coco_metrics, voc07_metrics
from drcnn.engine.metrics import Metrics
from drcnn.engine.precision import autocast
from drcnn.engine.run_options import RunOptions
from drcnn.engine.workers import from_first, gather, rank, world_size

__all__ = [
    "BATCH",
    "Metric",
    "Metrics",
    "coco_metrics",
    "detect_batch",
    "detect_split",
    "detections_table",
    "evaluate_split",
    "make_metric",
    "voc07_metrics",
]

Metric = Callable[[pa.Table], Metrics]

# Images of a batch. Detections do not depend on it, nor on the batches of training.
BATCH = 8


def evaluate_split(
    detector: DecoupledRCNN, split: str, config: Config, options: RunOptions
) -> tuple[Metrics, pa.Table]:
    """Detect on a whole split and judge the detections; every worker calls it and gets the same.

    Args:
        detector: on the device of ``options``.
        split: path of the prepared table.
        config: gives image sizes, precision and metric.
        options: how to run.

    Raises:
        DataError: an image cannot be read.
    """
    annotations = Annotations.load(split)
    loader = make_loader(
        split,
        config.data,
        training=False,
        batch_size=BATCH,
        rank=rank(),
        world_size=world_size(),
        num_workers=options.loader_workers,
        pin_memory=options.device == "cuda",
        beat=options.beat,
    )
    device = torch.device(options.device)
    detections = detect_split(detector, loader, annotations, device, config.evaluation.amp)
    return from_first(lambda: make_metric(config.evaluation, annotations)(detections)), detections


def make_metric(config: EvaluationConfig, annotations: Annotations) -> Metric:
    """Return the configured metric as a function of a table of detections on this split."""
    return partial(voc07_metrics if config.metric == "voc07" else coco_metrics, annotations)


@torch.inference_mode()
def detect_split(
    detector: DecoupledRCNN,
    loader: BatchLoader,
    annotations: Annotations,
    device: torch.device,
    amp: str = "none",
) -> pa.Table:
    """Return a split's detections, by row and falling score; the same on every worker.

    Each worker detects on its own batches (``loader`` knows which), in the precision ``amp``.
    """
    was_training = detector.training
    detector.eval()
    with autocast(device, amp), unchanged_weights({}):
        parts = [detect_batch(detector, batch.to(device)) for batch in loader]
    detector.train(was_training)
    # A worker may have had no image at all.
    return detections_table(annotations, [part for parts in gather(parts) for part in parts])


def detections_table(annotations: Annotations, parts: Sequence[dict[str, NDArray[Any]]]) -> pa.Table:
    """Join the detections of a split's batches (``detect_batch``), by row and falling score."""
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    # An order that does not depend on how the images were batched or shared out.
    order = np.lexsort((-columns["score"], columns["row"]))
    columns = {name: values[order] for name, values in columns.items()}
    image_ids = np.asarray(annotations.ids, dtype=object)[columns.pop("row")]
    return pa.table({"image_id": pa.array(image_ids, pa.string()), **columns})


def detect_batch(detector: DecoupledRCNN, batch: Batch) -> dict[str, NDArray[Any]]:
    """Return a batch's detections as columns of a table, with the ``row`` of each one's image."""
    found = detector.detect(batch)
    boxes = found.boxes / batch.scales.repeat(1, 2)[found.image]
    columns = {
        "row": batch.rows[found.image],
        "label": found.labels.int(),
        "score": found.scores.float(),
        **dict(zip(("x1", "y1", "x2", "y2"), boxes.float().unbind(1), strict=True)),
    }
    return {name: values.cpu().numpy() for name, values in columns.items()}
