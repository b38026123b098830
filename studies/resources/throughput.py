"""How long the remaining trials will take: from similar finished trials, else from a few measured steps.

The time of an image depends on the detector, the backbone, the image size and the machine; trials that agree
in these have the same throughput. A measured step uses an untrained detector, which finds almost nothing, so
its inference may later take a little longer.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from drcnn.batch import Batch
from drcnn.config import Config, ConfigError, DataConfig
from drcnn.data.annotations import Annotations
from drcnn.data.loader import BatchLoader, make_loader
from drcnn.engine.record import read_record
from drcnn.engine.run_options import RunOptions
from studies.definition.plan import Trial

if TYPE_CHECKING:
    from drcnn.detector.detector import DecoupledRCNN
    from studies.resources.slots import Allocation
    from studies.transfer.trial_folders import TrialFolders

__all__ = [
    "Estimate",
    "ImageTime",
    "cost_key",
    "estimate_remaining",
    "largest_batch",
    "measure_image_time",
    "measure_on_node",
    "train_once",
]

TRAINING_STEPS = 3
INFERENCE_BATCHES = 2
# On a CPU the paper's eight images at full size need more memory than most machines have.
IMAGES_ON_CPU = 2
# A measurement ends after this time, whatever the number of its steps.
SECONDS = 60
# By ``cost_key`` and GPUs of a worker, then by the number of workers.
Throughputs = defaultdict[tuple[object, float], dict[int, "ImageTime"]]


@dataclass(frozen=True)
class ImageTime:
    """Seconds of one worker for an image in training and at inference, and how they are known."""

    training: float
    inference: float
    source: str


@dataclass(frozen=True)
class Estimate:
    """The time that the remaining trials take.

    Attributes:
        seconds: by the clock, of each remaining trial by its id; without those of unknown throughput.
        worker_seconds: of all these trials, each counted for each of its workers.
        sources: how the throughputs are known.
        unknown: the number of trials whose throughput is neither recorded nor measured.
    """

    seconds: dict[str, float]
    worker_seconds: float
    sources: tuple[str, ...]
    unknown: int


def cost_key(config: Config) -> tuple[object, ...]:
    """Return the settings that decide how long a step takes, and how much memory it needs."""
    detector, data = config.detector, config.data
    return (
        (detector.backbone, detector.backbone_width, detector.norm, detector.frozen_stages),
        (detector.variant, detector.stages, detector.fpn_channels, detector.fc_width, detector.roi_samples),
        (detector.rpn_pre_nms_train, detector.rpn_post_nms_train),
        (detector.rpn_pre_nms_test, detector.rpn_post_nms_test),
        (data.short_side, data.long_side, data.train_short_sides),
        (config.training.batch_size, config.training.amp),
    )


def estimate_remaining(
    trials: Iterable[Trial],
    output: Path,
    measure: Callable[[Trial], ImageTime] | None,
    *,
    workers: int = 1,
    gpus: float = 0.0,
    whole: bool = False,
) -> Estimate:
    """Estimate the time of the trials that are not finished.

    Args:
        trials: to train and to evaluate; repeated ones count once.
        output: the folder whose finished trials have recorded their throughput.
        measure: measures a throughput that is not recorded, like ``measure_image_time``; none: it is unknown.
        workers: that train a trial; an evaluation has one.
        gpus: of each worker.
        whole: estimate all epochs of all trials, finished or not.
    """

    @cache
    def image_count(path: str) -> int:
        return len(Annotations.load(path))

    remaining = list({trial.id: trial for trial in trials}.values())
    if not whole:
        remaining = [trial for trial in remaining if not read_record(trial.folder).is_finished]
    judged_last = {
        trial.config.data: sum(
            image_count(path) for split, path in trial.data.tables.items() if split != "train"
        )
        for trial in remaining
    }
    throughputs = _recorded(output, judged_last)
    seconds: dict[str, float] = {}
    sources: dict[str, None] = {}
    worker_seconds = 0.0
    for trial in remaining:
        by_workers = throughputs[cost_key(trial.config), min(gpus, 1.0)]
        if not by_workers:
            if measure is None:
                continue
            by_workers[1] = measure(trial)
        trial_workers = 1 if trial.is_evaluation else workers
        # One of several workers is only a little slower than one alone.
        throughput = by_workers[min(by_workers, key=lambda number: abs(number - trial_workers))]
        work = judged_last[trial.config.data] * throughput.inference
        if not trial.is_evaluation:
            epochs = trial.config.training.epochs
            epochs_left = range(1 if whole else len(read_record(trial.folder).history) + 1, epochs + 1)
            work += len(epochs_left) * image_count(trial.data.train) * throughput.training
            if trial.data.val is not None and trial.config.evaluation.every:
                looks = sum(epoch % trial.config.evaluation.every == 0 for epoch in epochs_left[:-1])
                work += looks * image_count(trial.data.val) * throughput.inference
        seconds[trial.id] = work / trial_workers
        sources[throughput.source] = None
        worker_seconds += work
    return Estimate(seconds, worker_seconds, tuple(sources), len(remaining) - len(seconds))


def _recorded(output: Path, judged_last: Mapping[DataConfig, int]) -> Throughputs:
    """The throughputs that trials have recorded; of similar trials that of the newest.

    Args:
        output: the folder with the trials.
        judged_last: how many images of each data set are evaluated after the last epoch; trials of others are
            ignored.
    """
    throughputs: Throughputs = defaultdict(dict)
    results = sorted(output.glob("trials/*/result.json"), key=lambda path: path.stat().st_mtime)
    for folder in (path.parent for path in results):
        try:
            config = Config.from_yaml((folder / "config.yaml").read_text(encoding="utf-8"))
            metrics = read_record(folder).metrics
            gpus = metrics.get("perf/gpus", 0.0)
            # Records of earlier versions have the number of workers only if each had a GPU.
            workers = int(metrics.get("perf/workers", max(1.0, gpus)))
            # The figures are of all workers together.
            training = workers / metrics["perf/images_per_s"]
            inference = workers * metrics["perf/eval_seconds"] / judged_last[config.data]
        except (OSError, UnicodeDecodeError, ConfigError, KeyError):
            continue  # of an earlier version, of other data, or damaged
        throughput = ImageTime(training, inference, "finished trials of this output folder")
        throughputs[cost_key(config), gpus / workers][workers] = throughput
    return throughputs


def measure_image_time(options: RunOptions, trial: Trial) -> ImageTime:
    """Run a few training steps and a few batches of inference with a trial's configuration and data.

    Args:
        options: how its worker will run; they stay set in this process.
        trial: whose data are prepared here.
    """
    options.apply()
    config, target = trial.config, torch.device(options.device)
    detector, train = _untrained(trial, target)

    def detect(batch: Batch) -> None:
        with torch.inference_mode():
            detector.detect(batch.to(target))

    batch_size = config.training.batch_size
    if target.type == "cpu":
        batch_size = min(batch_size, IMAGES_ON_CPU)
    training = make_loader(trial.data.train, config.data, training=True, batch_size=batch_size)
    validation = make_loader(trial.data.judged_table, config.data, training=False, batch_size=batch_size)
    seconds_training = _seconds_per_image(training, train, TRAINING_STEPS, target)
    detector.eval()
    seconds_inference = _seconds_per_image(validation, detect, INFERENCE_BATCHES, target)
    return ImageTime(seconds_training, seconds_inference, "a few steps measured now")


def train_once(trial: Trial, batch_size: int, workers: int, device: str) -> None:
    """Run one training step of a worker on the largest batch of a trial's first epoch.

    Args:
        trial: whose data are prepared here.
        batch_size: of all workers, in place of the trial's.
        workers: of the trial.
        device: 'cpu' or 'cuda'.
    """
    target = torch.device(device)
    _, train = _untrained(trial, target)
    train(largest_batch(trial, batch_size, workers)[1]())
    if target.type == "cuda":
        torch.cuda.synchronize(target)


def largest_batch(trial: Trial, batch_size: int, workers: int) -> tuple[int, Callable[[], Batch]]:
    """Return how many pixels the first worker's largest batch of the first epoch has, and what loads it."""
    loader = make_loader(
        *(trial.data.train, trial.config.data),
        training=True,
        batch_size=batch_size,
        seed=trial.config.seed,
        epoch=1,
        world_size=workers,
    )
    return loader.largest()


def _untrained(trial: Trial, target: torch.device) -> tuple[DecoupledRCNN, Callable[[Batch], None]]:
    """A trial's detector in training mode, and a step that leaves it untrained."""
    from drcnn.detector.detector import build_detector, move_detector
    from drcnn.engine.optimizer import make_optimizer
    from drcnn.engine.precision import autocast

    config = trial.config
    detector = build_detector(config.detector, len(trial.data.classes), pretrained=False)
    detector = move_detector(detector, target)
    optimizer = make_optimizer(detector, config.training)

    def train(batch: Batch) -> None:
        with autocast(target, config.training.amp):
            losses = detector(batch.to(target))
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        optimizer.step()

    return detector.train(), train


def measure_on_node(
    allocation: Allocation, folders: TrialFolders, options: RunOptions, trial: Trial
) -> ImageTime:
    """``measure_image_time`` on any node with a free slot, in a process that ends afterwards."""
    import ray

    from studies.resources.refused_nodes import result_of

    def measure() -> ImageTime:
        folders.prepare_data(trial)
        return measure_image_time(options, trial)

    folders.offer([trial])
    # Its end frees the GPU's memory.
    task = ray.remote(num_cpus=allocation.cpus, num_gpus=allocation.gpus, max_calls=1)(measure)
    throughput: ImageTime = result_of(task.remote(), "to measure how long an image takes")
    return throughput


def _seconds_per_image(
    batches: BatchLoader, work: Callable[[Batch], None], count: int, device: torch.device
) -> float:
    """Seconds for an image, loading included: of the median batch, without the first if there are more."""
    seconds: list[float] = []
    begun = started = time.perf_counter()
    for batch in islice(batches, 1 + count):
        work(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        ended = time.perf_counter()
        seconds.append((ended - started) / len(batch))
        started = ended
        if ended - begun > SECONDS:
            break
    return statistics.median(seconds[1:] or seconds)
