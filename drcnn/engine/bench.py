"""Speed of our detectors beside torchvision's Faster R-CNN, and detectron2's where installed, in one run.

Every detector has the same backbone and briefly trained weights, and sees the same images, proposals and RoI
counts; how far a peer's detections agree with ours is told beside its speed. The detectors take turns, so
that other load on the machine affects all of them; compare the ratios within a run, not seconds between runs.

    result = bench(BenchOptions(), Path("runs/bench"), report=print)
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from drcnn.batch import Batch
from drcnn.config import Config
from drcnn.detector.detector import DecoupledRCNN, build_detector, move_detector
from drcnn.detector.pooling import pool
from drcnn.detector.rpn import anchors_for, propose
from drcnn.engine.bench_agreement import share_found
from drcnn.engine.bench_limit import flops, peak
from drcnn.engine.bench_loop import measure_loop
from drcnn.engine.bench_scenes import brief_weights, scenes
from drcnn.engine.bench_steps import Runner, Steps, of_ours, of_torchvision, timed
from drcnn.engine.detectron2_twin import detectron2_twin, has_detectron2, of_detectron2
from drcnn.engine.precision import TYPES
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
        amp: measure ours in bf16 too, beside float32.
        run: device and threads.
    """

    changes: dict[str, Any] = field(default_factory=dict)
    images: int = 2
    height: int = 480
    width: int = 608
    repeats: int = 5
    amp: bool = False
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
    peers = _peers(ours["fpn"], batch, device)
    runners = peers | {name: of_ours(detector, batch) for name, detector in ours.items()}
    found = runners["fpn"].found()
    agreement = {name: share_found(found, peer.found()) for name, peer in peers.items()}
    steps = {name: Steps(runner, base, device) for name, runner in runners.items()}
    if options.amp:
        half = base.with_changes({"training.amp": "bf16"})
        steps |= {f"{name} bf16": Steps(runners[name], half, device) for name in BENCHED}
    report("limit: FLOPs, and the speed of a convolution")
    limits = _limits(steps, options, device)

    seconds: dict[str, dict[str, list[float]]] = {name: {"train": [], "inference": []} for name in steps}
    for number in range(WARM_UP + options.repeats):
        report(f"round {number + 1} of {WARM_UP + options.repeats}{' (warm-up)' * (number < WARM_UP)}")
        for kind in ("train", "inference"):
            for name, step in steps.items():
                spent = timed(step.train if kind == "train" else step.infer, device)
                if number >= WARM_UP:
                    seconds[name][kind].append(spent)
    report("the loop around: loader, evaluation, metric")
    loop = measure_loop(
        ours["fpn"],
        base,
        folder,
        options.run,
        height=options.height,
        width=options.width,
        repeats=options.repeats,
    )
    return {
        "setting": _setting(base, options, alive=_alive(ours["fpn"], batch), agreement=agreement),
        "detectors": {name: _summary(seconds, name, options.images, limits[name]) for name in steps},
        "loop": loop,
        "parts": {name: _parts(step, device) for name, step in steps.items()},
    }


def _peers(detector: DecoupledRCNN, batch: Batch, device: torch.device) -> dict[str, Runner]:
    """The detectors of others, with the weights of our ``fpn``."""
    height, width = batch.images.shape[2:]
    twin = torchvision_twin(detector, height=height, width=width).to(device)
    peers = {"torchvision": of_torchvision(twin, batch)}
    if has_detectron2():
        peers["detectron2"] = of_detectron2(detectron2_twin(detector).to(device), batch)
    return peers


def _setting(
    base: Config, options: BenchOptions, *, alive: float, agreement: dict[str, float]
) -> dict[str, Any]:
    is_gpu = torch.device(options.run.device).type == "cuda"
    return {
        "backbone": base.detector.backbone,
        "images": options.images,
        "height": options.height,
        "width": options.width,
        "precision": base.training.amp if base.training.amp != "none" else "float32",
        "device": torch.cuda.get_device_name(options.run.device) if is_gpu else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "score_thr": base.detector.score_thr,
        "proposals above score_thr": alive,
        "detections that agree with fpn's": agreement,
    }


# FLOPs of a training step and of an inference, and the FLOPs a second that a convolution reaches.
_Limit = dict[str, tuple[int, float]]


def _limits(steps: dict[str, Steps], options: BenchOptions, device: torch.device) -> dict[str, _Limit]:
    shape = {"images": options.images, "height": options.height, "width": options.width}
    peaks = {
        amp: peak(device, TYPES.get(amp, torch.float32), **shape) for amp in {s.amp for s in steps.values()}
    }
    return {
        name: {
            "train": (flops(step.train), peaks[step.amp]),
            "inference": (flops(step.infer), peaks[step.amp]),
        }
        for name, step in steps.items()
    }


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


def _summary(
    seconds: dict[str, dict[str, list[float]]], name: str, images: int, limit: _Limit
) -> dict[str, Any]:
    """Medians of a detector's speeds, of its ratios to other detectors within each round, and its limit."""
    summary: dict[str, Any] = {}
    for kind, rounds in seconds[name].items():
        summary[kind] = {
            "seconds": statistics.median(rounds),
            "images_per_s": images / statistics.median(rounds),
            "of_torchvision": _ratio(rounds, seconds["torchvision"][kind]),
            "of_fpn": _ratio(rounds, seconds["fpn"][kind]),
            "flops": limit[kind][0],
            "flops_per_s_of_a_convolution": limit[kind][1],
            "limit_seconds": limit[kind][0] / limit[kind][1],
        }
    return summary


def _ratio(rounds: list[float], others: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(rounds, others, strict=True))


def _parts(step: Steps, device: torch.device) -> dict[str, dict[str, float]]:
    """Seconds in each part of a training step and of an inference, and in the costliest operators."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    parts = {}
    for kind, run in (("train", step.train), ("inference", step.infer)):
        with profile(activities=activities) as profiler:
            timed(run, device)
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
