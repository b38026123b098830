"""Evaluation of a trained detector: its detections and metrics, and its latency."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import torch

from drcnn.batch import Batch
from drcnn.config import Config
from drcnn.data.loader import make_loader
from drcnn.detector.detector import DecoupledRCNN
from drcnn.detector.fused import unchanged_weights
from drcnn.engine.checkpoint import load_detector
from drcnn.engine.evaluate import evaluate_split
from drcnn.engine.metrics import Metrics
from drcnn.engine.precision import autocast, require_precision
from drcnn.engine.run_options import RunOptions
from drcnn.locks import file_lock

__all__ = ["Evaluation", "evaluate_checkpoint", "measure_latency"]

# The first images of the split, one after another.
TIMED_IMAGES = 16
REPEATS = 5


@dataclass(frozen=True)
class Evaluation:
    """A checkpoint's metrics on a split, its detections there, and the epoch that it was saved after."""

    metrics: Metrics
    detections: pa.Table
    epoch: int


def evaluate_checkpoint(
    checkpoint: Path, config: Config, tables: Mapping[str, str], options: RunOptions
) -> dict[str, Evaluation]:
    """Detect on whole splits and judge the detections, by split.

    Args:
        checkpoint: of a trained detector.
        config: how to detect; the architecture must be the checkpoint's.
        tables: path of the prepared table of each split.
        options: how to run.

    Raises:
        CheckpointError: the file is no checkpoint, or of another architecture.
        ConfigError: fp16 is asked for without a GPU.
    """
    require_precision(config, options.device)
    options.apply()
    detector, state = load_detector(checkpoint, options.device, config.detector)
    return {
        split: Evaluation(*evaluate_split(detector, table, config, options), state.epoch)
        for split, table in tables.items()
    }


def measure_latency(checkpoint: Path, config: Config, split: str, options: RunOptions) -> float:
    """Measure how long a trained detector takes for an image: milliseconds, one image at a time.

    This is the fastest of several passes over the same images, since other load on the machine can only make
    a pass slower. Processes of one machine take turns to measure, though not to train.

    Args:
        checkpoint: of a trained detector.
        config: how to detect; the architecture must be the checkpoint's.
        split: path of the prepared table whose first images it runs on.
        options: how to run.

    Raises:
        ConfigError: fp16 is asked for without a GPU.
    """
    require_precision(config, options.device)
    options.apply()
    device = torch.device(options.device)
    detector, _ = load_detector(checkpoint, device, config.detector)
    loader = make_loader(split, config.data, training=False, batch_size=1, num_workers=options.loader_workers)
    batches = [batch.to(device) for batch in islice(loader, TIMED_IMAGES)]
    # Weights stay as they are between the passes, as in a process that detects all day.
    with (
        autocast(device, config.evaluation.amp),
        unchanged_weights({}),
        file_lock(Path(tempfile.gettempdir()) / f"drcnn-latency-{os.getuid()}.lock"),
    ):
        seconds = min(_pass(detector, batches, device) for _ in range(1 + REPEATS))
    return 1000 * seconds / len(batches)


@torch.inference_mode()
def _pass(detector: DecoupledRCNN, batches: list[Batch], device: torch.device) -> float:
    started = time.perf_counter()
    for batch in batches:
        detector.detect(batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
