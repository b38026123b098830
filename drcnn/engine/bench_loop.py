"""Speed of what is around the detector: the loader of training, an evaluation, the metric."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from drcnn.config import Config
from drcnn.data.annotations import Annotations, Record
from drcnn.data.loader import make_loader
from drcnn.detector.detector import DecoupledRCNN
from drcnn.detector.fused import Weights, unchanged_weights
from drcnn.engine.average_precision import coco_metrics
from drcnn.engine.bench_metric import coco_sized
from drcnn.engine.bench_scenes import scenes
from drcnn.engine.bench_steps import timed
from drcnn.engine.evaluate import BATCH, evaluate_split
from drcnn.engine.precision import autocast
from drcnn.engine.run_options import RunOptions

__all__ = ["measure_loop", "scene_files"]

# Images that an evaluation and its parts see.
IMAGES = BATCH


def measure_loop(
    detector: DecoupledRCNN,
    base: Config,
    folder: Path,
    options: RunOptions,
    *,
    height: int,
    width: int,
    repeats: int,
) -> dict[str, dict[str, float]]:
    """Measure them on scenes of digits: medians of rounds in which they take turns, after one to warm up.

    Args:
        detector: on the device of ``options``.
        base: gives the sizes that the loader resizes to, and the precision of the evaluation.
        folder: for the table of the scenes.
        options: how to run; the loader decodes in this process.
        height: of the scenes in pixels; ``width`` likewise.
        repeats: measured rounds.

    Returns:
        Seconds and images per second by name. ``loader`` decodes, resizes, flips and collates JPEG files.
        ``evaluation`` is that of training, with its loader and metric; ``detect`` is its forward pass alone,
        ``forward pass of training`` that of the losses, on the same images. ``metric`` is COCO's of 5,000
        images.
    """
    device = torch.device(options.device)
    table = folder / f"scenes-{height}x{width}.arrow"
    scene_files(IMAGES, height, width).save(table)
    # The detector sees the scenes as they are, like everywhere else in the benchmark.
    as_is = base.with_changes({"data.short_side": None, "data.train_short_sides": None})
    found = [
        [
            batch.to(device)
            for batch in make_loader(str(table), as_is.data, training=training, batch_size=size)
        ]
        for training, size in ((False, BATCH), (True, 2))
    ]
    weights: Weights = {}
    truth, detections = coco_sized()

    def load() -> None:
        for _ in make_loader(str(table), base.data, training=True, batch_size=IMAGES):
            pass

    @torch.inference_mode()
    def detect() -> None:
        detector.eval()
        with autocast(device, base.evaluation.amp), unchanged_weights(weights):
            for batch in found[0]:
                detector.detect(batch)

    def forward() -> None:
        detector.train()
        with autocast(device, base.training.amp):
            for batch in found[1]:
                detector(batch)

    calls: dict[str, tuple[int, Callable[[], object]]] = {
        "loader": (IMAGES, load),
        "evaluation": (IMAGES, lambda: evaluate_split(detector, str(table), as_is, options)),
        "detect": (IMAGES, detect),
        "forward pass of training": (IMAGES, forward),
        "metric": (len(truth), lambda: coco_metrics(truth, detections)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(1 + repeats):
        for name, (_, call) in calls.items():
            spent = timed(call, device)
            seconds[name] += [spent] * (number > 0)
    medians = {name: statistics.median(spent) for name, spent in seconds.items()}
    return {
        name: {"seconds": medians[name], "images_per_s": images / medians[name]}
        for name, (images, _) in calls.items()
    }


def scene_files(images: int, height: int, width: int) -> Annotations:
    """Return scenes of digits (``bench_scenes``) as JPEG files with their annotations, to load."""
    batch = scenes(images, height, width)
    records = []
    for row in range(images):
        encoded = io.BytesIO()
        Image.fromarray(batch.images[row].permute(1, 2, 0).numpy()).save(encoded, "JPEG", quality=90)
        is_object = batch.labels[row] >= 0
        records.append(
            Record(
                id=f"scene-{row}",
                width=width,
                height=height,
                boxes=batch.boxes[row][is_object].numpy(),
                labels=batch.labels[row][is_object].numpy(),
                image=encoded.getvalue(),
            )
        )
    return Annotations.from_records(records, classes=[str(digit) for digit in range(10)])
