"""What the benchmark times: a training step and an inference of a detector, ours or another's."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from drcnn.batch import Batch
from drcnn.config import Config
from drcnn.detector.detector import DecoupledRCNN
from drcnn.detector.fused import Weights, unchanged_weights
from drcnn.detector.postprocess import Detections
from drcnn.engine.optimizer import make_optimizer
from drcnn.engine.precision import autocast

__all__ = ["Runner", "Steps", "of_ours", "of_torchvision", "timed"]


@dataclass(frozen=True)
class Runner:
    """A detector with its two calls, and how the result of ``detect`` reads as our detections."""

    model: nn.Module
    losses: Callable[[], dict[str, Tensor]]
    detect: Callable[[], Any]
    detections: Callable[[Any], Detections]

    @torch.inference_mode()
    def found(self) -> Detections:
        """Detect, in float32."""
        self.model.eval()
        return self.detections(self.detect())


class Steps:
    """One training step and one inference of a detector, always from the same weights."""

    def __init__(self, runner: Runner, config: Config, device: torch.device) -> None:
        self.runner = runner
        # The rate 0 keeps the weights unchanged; the optimiser's work is the same.
        self.optimizer = make_optimizer(runner.model, config.training)
        self.optimizer.param_groups[0]["lr"] = 0.0
        self.amp = config.training.amp
        self.autocast = partial(autocast, device, self.amp)
        self.weights: Weights = {}

    def train(self) -> None:
        """Run one training step."""
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
        """Detect once."""
        self.runner.model.eval()
        with self.autocast(), unchanged_weights(self.weights):  # as evaluation does
            self.runner.detect()


def of_ours(detector: DecoupledRCNN, batch: Batch) -> Runner:
    """Return our detector on ``batch``."""
    return Runner(detector, lambda: detector(batch), lambda: detector.detect(batch), lambda found: found)


def of_torchvision(model: nn.Module, batch: Batch) -> Runner:
    """Return torchvision's detector on ``batch``."""
    images = list(batch.images.float() / 255)
    targets = [
        {"boxes": boxes[labels >= 0], "labels": labels[labels >= 0] + 1}
        for boxes, labels in zip(batch.boxes, batch.labels, strict=True)
    ]
    return Runner(model, lambda: model(images, targets), lambda: model(images), _of_torchvision)


def _of_torchvision(found: list[dict[str, Tensor]]) -> Detections:
    counts = torch.tensor([len(each["labels"]) for each in found])
    return Detections(
        torch.arange(len(found)).repeat_interleave(counts),
        torch.cat([each["boxes"] for each in found]),
        torch.cat([each["labels"] for each in found]) - 1,  # its background is class 0
        torch.cat([each["scores"] for each in found]),
    )


def timed(step: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that ``step`` takes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
