"""How long a launch will take: from finished trials of the same kind, else from a few measured steps.

What an image costs depends on the detector, the backbone, the image size and the machine: trials that agree
in these have one pace. Its source is said with it. A measured step is of a detector that was not trained,
which finds next to nothing: its inference may later take a little longer.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch

from drcnn.batch import Batch
from drcnn.config import Config, ConfigError, DataConfig
from drcnn.data.annotations import Annotations
from drcnn.data.loader import BatchLoader, make_loader
from drcnn.detector.detector import build_detector, move_detector
from drcnn.engine.record import read_record
from drcnn.engine.train import make_optimizer
from studies.definition.plan import Trial

__all__ = ["Estimate", "Throughput", "estimate_remaining", "measure_throughput", "throughput_key"]

TRAINING_STEPS = 3
INFERENCE_BATCHES = 2
# On a CPU the paper's eight images at full size need more memory than most machines have.
IMAGES_ON_CPU = 2
# Enough is known by then.
SECONDS = 60


@dataclass(frozen=True)
class Kind:
    """Trials of one kind have one pace.

    Attributes:
        settings: those that it depends on most.
        gpus: of each worker.
        workers: of the trial.
    """

    settings: tuple[object, ...]
    gpus: float
    workers: int


@dataclass(frozen=True)
class Throughput:
    """Seconds of one worker for an image, and how that is known."""

    training: float
    inference: float
    source: str


@dataclass(frozen=True)
class Estimate:
    """What is left to do.

    Attributes:
        seconds: by the clock, of each trial that is not finished, by id; not of those whose pace is unknown.
        worker_seconds: of all these, each counted for each of its workers.
        sources: where the paces come from.
        unknown: how many trials have a pace that no finished trial shows and that was not measured.
    """

    seconds: dict[str, float]
    worker_seconds: float
    sources: tuple[str, ...]
    unknown: int


def estimate_remaining(
    trials: Iterable[Trial],
    output: Path,
    measure: Callable[[Trial], Throughput] | None,
    *,
    workers: int = 1,
    gpus: float = 0.0,
    whole: bool = False,
) -> Estimate:
    """Estimate the trials that are not finished.

    Args:
        trials: to train and to evaluate.
        output: whose finished trials are asked first.
        measure: finds a pace that no trial shows, like ``measure_throughput``; none: it stays unknown.
        workers: that train a trial; one evaluates.
        gpus: of each worker.
        whole: estimate them from their first epoch to the last, whatever is finished.
    """
    wanted = {trial.id: trial for trial in trials}.values()
    left = [trial for trial in wanted if whole or not read_record(trial.folder).is_finished]
    sizes: dict[str, int] = {}

    def images(path: str) -> int:
        if path not in sizes:
            sizes[path] = len(Annotations.load(path))
        return sizes[path]

    known = _recorded(output, {trial.config.data: images(trial.data.val) for trial in left})
    seconds: dict[str, float] = {}
    sources: dict[str, None] = {}
    spent = 0.0
    for trial in left:
        at_work = workers if trial.model is None else 1
        kind = Kind(throughput_key(trial.config), min(gpus, 1.0), at_work)
        pace = _nearest(known, kind)
        if pace is None:
            if measure is None:
                continue
            known[replace(kind, workers=1)] = pace = measure(trial)
        work = images(trial.data.val) * pace.inference
        if trial.model is None:
            epochs = trial.config.training.epochs - (0 if whole else len(read_record(trial.folder).history))
            work = epochs * (images(trial.data.train) * pace.training + work)
        seconds[trial.id] = work / at_work
        sources[pace.source] = None
        spent += work
    return Estimate(seconds, spent, tuple(sources), len(left) - len(seconds))


def _nearest(known: Mapping[Kind, Throughput], kind: Kind) -> Throughput | None:
    """The pace of this kind, else that with the nearest number of workers: one of many is a little slower."""
    like = [each for each in known if replace(each, workers=kind.workers) == kind]
    return known[min(like, key=lambda each: abs(each.workers - kind.workers))] if like else None


def throughput_key(config: Config) -> tuple[object, ...]:
    """The settings that decide how long a step takes, and how much memory."""
    detector, data = config.detector, config.data
    return (
        (detector.variant, detector.stages, detector.backbone, detector.backbone_width, detector.fc_width),
        (detector.roi_samples, detector.rpn_post_nms_train, detector.rpn_post_nms_test),
        (data.short_side, data.long_side, data.train_short_sides),
        (config.training.batch_size, config.training.amp),
    )


def _recorded(output: Path, validation: Mapping[DataConfig, int]) -> dict[Kind, Throughput]:
    """The paces of finished trials, the newest of each kind.

    Args:
        output: with the trials.
        validation: how many images these data have to validate on.
    """
    found: dict[Kind, Throughput] = {}
    records = sorted(output.glob("trials/*/result.json"), key=lambda path: path.stat().st_mtime)
    for path in records:
        try:
            config = Config.from_yaml((path.parent / "config.yaml").read_text(encoding="utf-8"))
            last = json.loads(path.read_text(encoding="utf-8"))["metrics"]
            gpus = last.get("perf/gpus", 0.0)
            # Older records say how many workers there were only where each had a GPU.
            workers = int(last.get("perf/workers", max(1.0, gpus)))
            # What is recorded is the whole group's.
            training = workers / last["perf/images_per_s"]
            inference = workers * last["perf/eval_seconds"] / validation[config.data]
        except (OSError, ConfigError, KeyError):
            continue  # of an older version, or of other data
        kind = Kind(throughput_key(config), gpus / workers, workers)
        found[kind] = Throughput(training, inference, "finished trials of this output folder")
    return found


def measure_throughput(trial: Trial, device: str) -> Throughput:
    """Train a few steps and detect on a few batches of a trial's own configuration and data.

    Args:
        trial: not finished.
        device: 'cpu' or 'cuda'.
    """
    config = trial.config
    where = torch.device(device)
    detector = move_detector(
        build_detector(config.detector, len(trial.data.classes), pretrained=False), where
    )
    optimizer = make_optimizer(detector, config.training)

    def step(batch: Batch) -> None:
        losses = detector(batch.to(where))
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        # An untrained detector is not to be trained: at this rate its weights stay as they are.
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        optimizer.step()

    def detect(batch: Batch) -> None:
        with torch.inference_mode():
            detector.detect(batch.to(where))

    size = config.training.batch_size
    if where.type == "cpu":
        size = min(size, IMAGES_ON_CPU)
    training = make_loader(trial.data.train, config.data, training=True, batch_size=size)
    validation = make_loader(trial.data.val, config.data, training=False, batch_size=size)
    detector.train()
    pace = _per_image(training, step, TRAINING_STEPS, where)
    detector.eval()
    return Throughput(
        pace, _per_image(validation, detect, INFERENCE_BATCHES, where), "a few steps measured now"
    )


def _per_image(
    batches: BatchLoader, work: Callable[[Batch], None], count: int, device: torch.device
) -> float:
    """Seconds an image, loading included: the median batch, without the first where there are several."""
    spent: list[float] = []
    begun = started = time.perf_counter()
    for batch in islice(batches, 1 + count):
        work(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        ended = time.perf_counter()
        spent.append((ended - started) / len(batch))
        started = ended
        if ended - begun > SECONDS:
            break
    return statistics.median(spent[1:] or spent)
