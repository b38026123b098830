"""Speed of our detectors beside torchvision's Faster R-CNN, in one run.

Every detector has the same backbone and briefly trained weights, and sees the same images, proposals and RoI
counts. The detectors take turns, so that other load on the machine affects all of them; compare the ratios
within a run, not seconds between runs.

    result = bench(BenchOptions(), Path("runs/bench"), report=print)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from drcnn.batch import Batch
from drcnn.config import Config
from drcnn.detector.detector import DecoupledRCNN, build_detector, move_detector
from drcnn.detector.pooling import pool
from drcnn.detector.rpn import anchors_for, propose
from drcnn.engine.bench_scenes import brief_weights, scenes
from drcnn.engine.optimizer import make_optimizer
from drcnn.engine.precision import autocast
from drcnn.engine.run_options import RunOptions
from drcnn.engine.torchvision_twin import torchvision_twin

__all__ = ["BENCHED", "BenchOptions", "bench"]

BENCHED = ("fpn", "decoupled", "decoupled_cascade")
CLASSES = 10
PARTS = ("backbone", "FPN", "RPN head", "RPN loss", "proposals", "heads", "backward", "optimizer")
WARM_UP = 1


@dataclass(frozen=True)
class BenchOptions:
    """The measurement's settings.

    Attributes:
        changes: dotted settings on top of the paper's, such as the backbone.
        images: images per batch.
        height: of the images in pixels, a multiple of 32; ``width`` likewise.
        repeats: measured rounds; medians are reported.
        run: device and threads.
    """

    changes: dict[str, Any] = field(default_factory=dict)
    images: int = 2
    height: int = 480
    width: int = 608
    repeats: int = 5
    run: RunOptions = field(default_factory=RunOptions)


def bench(options: BenchOptions, folder: Path, *, report: Callable[[str], None]) -> dict[str, Any]:
    """Measure, and return the content of ``drcnn bench --json``.

    Args:
        options: settings of the measurement.
        folder: keeps the briefly trained weights for later runs.
        report: called with one line at each step of the measurement.
    """
    if options.run.threads:
        torch.set_num_threads(options.run.threads)
    base = Config().with_changes({"detector.backbone": "resnet50", "detector.anchor_scale": 4.0})
    base = base.with_changes(options.changes)
    report("weights: an FPN trained briefly on digits")
    weights = brief_weights(base.detector, folder, options.run)
    device = torch.device(options.run.device)
    batch = scenes(options.images, options.height, options.width).to(device)
    ours = {variant: move_detector(_detector(base, variant, weights), device) for variant in BENCHED}
    twin = torchvision_twin(ours["fpn"], height=options.height, width=options.width).to(device)
    runners = {"torchvision": _of_torchvision(twin, batch)}
    runners |= {name: _of_ours(detector, batch) for name, detector in ours.items()}
    steps = {name: _Steps(runner, base, device) for name, runner in runners.items()}

    seconds: dict[str, dict[str, list[float]]] = {name: {"train": [], "inference": []} for name in steps}
    for number in range(WARM_UP + options.repeats):
        report(f"round {number + 1} of {WARM_UP + options.repeats}{' (warm-up)' * (number < WARM_UP)}")
        for kind in ("train", "inference"):
            for name, step in steps.items():
                spent = _seconds(step.train if kind == "train" else step.infer, device)
                if number >= WARM_UP:
                    seconds[name][kind].append(spent)
    return {
        "setting": {
            "backbone": base.detector.backbone,
            "images": options.images,
            "height": options.height,
            "width": options.width,
            "precision": base.training.amp if base.training.amp != "none" else "float32",
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "score_thr": base.detector.score_thr,
            "proposals above score_thr": _alive(ours["fpn"], batch),
        },
        "detectors": {name: _summary(seconds, name, options.images) for name in steps},
        "parts": {name: _parts(step, device) for name, step in steps.items()},
    }


@dataclass(frozen=True)
class _Runner:
    """A detector with its two calls."""

    model: nn.Module
    losses: Callable[[], dict[str, Tensor]]
    detect: Callable[[], object]


class _Steps:
    """One training step and one inference of a detector, always from the same weights."""

    def __init__(self, runner: _Runner, config: Config, device: torch.device) -> None:
        self.runner = runner
        # The rate 0 keeps the weights unchanged; the optimiser's work is the same.
        self.optimizer = make_optimizer(runner.model, config.training)
        self.optimizer.param_groups[0]["lr"] = 0.0
        self.autocast = partial(autocast, device, config.training.amp)

    def train(self) -> None:
        self.runner.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            total = torch.stack(list(self.runner.losses().values())).sum()
        with record_function("backward"):
            total.backward()  # type: ignore[no-untyped-call]
        with record_function("optimizer"):
            self.optimizer.step()

    @torch.inference_mode()
    def infer(self) -> None:
        self.runner.model.eval()
        with self.autocast():
            self.runner.detect()


def _detector(base: Config, variant: str, weights: dict[str, Tensor]) -> DecoupledRCNN:
    """Build a variant on the FPN's weights; separate branches each get a copy of the shared layers.

    So all variants score alike. Later regression stages hardly move boxes yet, but cost the same.
    """
    config = base.with_changes({"detector.variant": variant}).detector
    detector = build_detector(config, CLASSES, pretrained=False)
    state = detector.state_dict()
    stem = "heads.stages.0.stem."
    for name, value in weights.items():
        names = [name]
        if name.startswith(stem):
            names += [name.replace("stem", f"{branch}.trunk") for branch in ("classifier", "regressor")]
        state |= {copy: value for copy in names if copy in state}
    detector.load_state_dict(state)
    return detector


def _of_ours(detector: DecoupledRCNN, batch: Batch) -> _Runner:
    return _Runner(detector, lambda: detector(batch), lambda: detector.detect(batch))


def _of_torchvision(model: nn.Module, batch: Batch) -> _Runner:
    images = list(batch.images.float() / 255)
    targets = [
        {"boxes": boxes[labels >= 0], "labels": labels[labels >= 0] + 1}
        for boxes, labels in zip(batch.boxes, batch.labels, strict=True)
    ]
    return _Runner(model, lambda: model(images, targets), lambda: model(images))


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _summary(seconds: dict[str, dict[str, list[float]]], name: str, images: int) -> dict[str, Any]:
    """Medians of a detector's speeds, and of its ratios to other detectors within each round."""
    summary: dict[str, Any] = {}
    for kind, rounds in seconds[name].items():
        summary[kind] = {
            "seconds": statistics.median(rounds),
            "images_per_s": images / statistics.median(rounds),
            "of_torchvision": _ratio(rounds, seconds["torchvision"][kind]),
            "of_fpn": _ratio(rounds, seconds["fpn"][kind]),
        }
    return summary


def _ratio(rounds: list[float], others: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(rounds, others, strict=True))


def _parts(step: _Steps, device: torch.device) -> dict[str, dict[str, float]]:
    """Seconds in each part of a training step and of an inference, and in the costliest operators."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    parts = {}
    for kind, run in (("train", step.train), ("inference", step.infer)):
        with profile(activities=activities) as profiler:
            _seconds(run, device)
        total = "device_time_total" if device.type == "cuda" else "cpu_time_total"
        own = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
        events = profiler.key_averages()
        parts[kind] = {e.key: getattr(e, total) / 1e6 for e in events if e.key in PARTS}
        operators = sorted((e for e in events if e.key not in PARTS), key=lambda e: -getattr(e, own))
        parts[f"{kind} operators"] = {e.key: getattr(e, own) / 1e6 for e in operators[:8]}
    return parts


@torch.inference_mode()
def _alive(detector: DecoupledRCNN, batch: Batch) -> float:
    """Proposals per image with a class above the threshold, which determine the cascade's cost."""
    detector.eval()
    config = detector.config
    features = detector.features(batch)
    (proposals,) = propose(
        detector.rpn(features),
        anchors_for(features, config.anchor_scale),
        batch.sizes,
        nms_thresholds=(config.nms_test,),
        pre_nms=config.rpn_pre_nms_test,
        post_nms=config.rpn_post_nms_test,
    )
    image, slot = proposals.valid.nonzero(as_tuple=True)
    stage = detector.heads.stage(1)
    hidden = stage.stem(pool(features[:4], image, proposals.boxes[image, slot]))
    scores = stage.classify(hidden).softmax(dim=1)[:, :-1]
    return float((scores > config.score_thr).any(dim=1).sum()) / len(batch)
