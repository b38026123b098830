"""How long a launch will take: from finished trials of the same kind, else from a few measured steps.

What an image costs depends on the detector, the backbone and the image size: trials that agree in these have
one pace. Its source is said with it. A measured step is of a detector that was not trained, which finds next
to nothing: its inference may later take a little longer.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from drcnn.batch import Batch
from drcnn.config import Config, ConfigError, DataConfig
from drcnn.data.annotations import Annotations
from drcnn.data.loader import BatchLoader, make_loader
from drcnn.detector.detector import build_detector
from drcnn.engine.train import make_optimizer
from studies.outcomes import outcome
from studies.trials import Trial

__all__ = ["Estimate", "Pace", "estimate", "measure_pace"]

TRAINING_STEPS = 3
INFERENCE_BATCHES = 2
# On a CPU the paper's eight images at full size need more memory than most machines have.
IMAGES_ON_CPU = 2
# Enough is known by then.
SECONDS = 60
Kind = tuple[object, ...]


@dataclass(frozen=True)
class Pace:
    """Seconds an image, and how that is known."""

    training: float
    inference: float
    source: str


@dataclass(frozen=True)
class Estimate:
    """What is left to do, in seconds of one worker.

    Attributes:
        seconds: for each trial that is not done, by id; without those whose pace is unknown.
        sources: where the paces come from.
        unknown: how many trials have a pace that no finished trial shows and that was not measured.
    """

    seconds: dict[str, float]
    sources: tuple[str, ...]
    unknown: int


def estimate(trials: Sequence[Trial], output: Path, measure: Callable[[Trial], Pace] | None) -> Estimate:
    """Estimate the trials that are not finished.

    Args:
        trials: to train and to evaluate.
        output: whose finished trials are asked first.
        measure: finds a pace that no trial shows, like ``measure_pace``; none: it stays unknown.
    """
    left = [trial for trial in trials if not outcome(trial.folder).done]
    sizes: dict[str, int] = {}

    def images(path: str) -> int:
        if path not in sizes:
            sizes[path] = len(Annotations.load(path))
        return sizes[path]

    known = _recorded(output, {trial.config.data: images(trial.data.val) for trial in left})
    seconds: dict[str, float] = {}
    for trial in left:
        kind = _kind(trial.config)
        if kind not in known:
            if measure is None:
                continue
            known[kind] = measure(trial)
        pace = known[kind]
        validation = images(trial.data.val) * pace.inference
        epochs = trial.config.training.epochs - len(outcome(trial.folder).history)
        training = images(trial.data.train) * pace.training + validation
        seconds[trial.id] = validation if trial.model is not None else epochs * training
    sources = dict.fromkeys(known[_kind(trial.config)].source for trial in left if trial.id in seconds)
    return Estimate(seconds, tuple(sources), len(left) - len(seconds))


def _kind(config: Config) -> Kind:
    """What the pace depends on most."""
    detector, data = config.detector, config.data
    return (
        (detector.variant, detector.stages, detector.backbone, detector.backbone_width, detector.fc_width),
        (detector.roi_samples, detector.rpn_post_nms_train, detector.rpn_post_nms_test),
        (data.short_side, data.long_side, data.train_short_sides),
        (config.training.batch_size, config.training.amp),
    )


def _recorded(output: Path, validation: Mapping[DataConfig, int]) -> dict[Kind, Pace]:
    """The paces of finished trials, the newest of each kind.

    Args:
        output: with the trials.
        validation: how many images these data have to validate on.
    """
    found: dict[Kind, Pace] = {}
    records = sorted(output.glob("trials/*/result.json"), key=lambda path: path.stat().st_mtime)
    for path in records:
        try:
            config = Config.from_yaml((path.parent / "config.yaml").read_text(encoding="utf-8"))
            last = json.loads(path.read_text(encoding="utf-8"))["metrics"]
            training = 1 / last["perf/images_per_s"]
            inference = last["perf/eval_seconds"] / validation[config.data]
        except (OSError, ConfigError, KeyError):
            continue  # of an older version, or of other data
        found[_kind(config)] = Pace(training, inference, "finished trials of this output folder")
    return found


def measure_pace(trial: Trial, device: str) -> Pace:
    """Train a few steps and detect on a few batches of a trial's own configuration and data.

    Args:
        trial: not finished.
        device: 'cpu' or 'cuda'.
    """
    config = trial.config
    where = torch.device(device)
    detector = build_detector(config.detector, len(trial.data.classes), pretrained=False).to(where)
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
    return Pace(pace, _per_image(validation, detect, INFERENCE_BATCHES, where), "a few steps measured now")


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
