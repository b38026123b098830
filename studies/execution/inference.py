"""What is measured on a trained detector without training: its detections with other settings, and its speed.

Both take the detector of the last epoch, whose figures a trial's record and the report show too; not that of
the best epoch, which was chosen by the very images that it would be judged on.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
import torch

from drcnn.batch import Batch
from drcnn.data.annotations import Annotations
from drcnn.data.loader import BatchLoader, make_loader
from drcnn.detector.detector import DecoupledRCNN
from drcnn.engine.checkpoint import load_detector
from drcnn.engine.evaluate import detect_split, make_metric
from drcnn.engine.record import read_record, write_finished, write_latency
from drcnn.engine.train import RunOptions
from drcnn.files import replacing, write_text
from studies.definition.plan import Trial

__all__ = ["evaluate", "measure_latency"]

# Of the validation split, one after another.
TIMED_IMAGES = 16
REPEATS = 5


def evaluate(trial: Trial, options: RunOptions) -> dict[str, float]:
    """Evaluate a trained trial with other settings of inference; leave detections and ``result.json``.

    Args:
        trial: the evaluation; its ``model`` has finished.
        options: how to run.

    Returns:
        The metrics, as of an epoch: that of the detector.
    """
    assert trial.model is not None
    started = time.perf_counter()
    options.apply()
    device = torch.device(options.device)
    detector, state = load_detector(trial.model.folder / "last.safetensors", device, trial.config.detector)
    annotations = Annotations.load(trial.data.val)
    metric = make_metric(trial.config.evaluation, annotations)
    detections = detect_split(detector, _loader(trial, options), annotations, device)
    found = metric(detections)
    trial.folder.mkdir(parents=True, exist_ok=True)
    with replacing(trial.folder / "detections.parquet") as draft:
        pq.write_table(detections, draft)
    write_text(trial.folder / "config.yaml", trial.config.to_yaml())
    seconds = time.perf_counter() - started
    metrics = {
        "epoch": float(state.epoch),
        **{f"val/{name}": value for name, value in found.summary.items()},
        "perf/eval_seconds": seconds,
    }
    # Last: the mark of a finished evaluation.
    write_finished(trial.folder, [metrics], found.per_class, seconds)
    return metrics


def measure_latency(trial: Trial, options: RunOptions) -> None:
    """Measure how long a finished trial's detector takes for an image, once; the trial's folder keeps it.

    The fastest of several passes over the same images, one image at a time: what else the machine does can
    only make a pass slower. Trials of one machine take turns to be measured, though not to train.
    """
    if read_record(trial.folder).latency is not None:
        return
    device = torch.device(options.device)
    options.apply()
    detector, _ = load_detector(trial.folder / "last.safetensors", device)
    batches = [batch.to(device) for batch in islice(_loader(trial, options, batch_size=1), TIMED_IMAGES)]
    with _turn():
        seconds = min(_pass(detector, batches, device) for _ in range(1 + REPEATS))
    write_latency(trial.folder, 1000 * seconds / len(batches), str(device))


@torch.inference_mode()
def _pass(detector: DecoupledRCNN, batches: list[Batch], device: torch.device) -> float:
    started = time.perf_counter()
    for batch in batches:
        detector.detect(batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _loader(trial: Trial, options: RunOptions, batch_size: int | None = None) -> BatchLoader:
    return make_loader(
        trial.data.val,
        trial.config.data,
        training=False,
        batch_size=batch_size or trial.config.training.batch_size,
        num_workers=options.loader_workers,
        pin_memory=options.device == "cuda",
    )


@contextmanager
def _turn() -> Iterator[None]:
    with (Path(tempfile.gettempdir()) / f"drcnn-latency-{os.getuid()}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
