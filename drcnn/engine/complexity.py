"""Parameters and FLOPs of a configuration, counted as the paper counts them (docs/detector.md, section 7).

The real modules run once on torch's meta device, where tensors have shapes and no values, with a hook on
each layer. The convention is that of MMDetection's ``get_flops``: one image of 3x1333x800 unpadded, 80
classes, 1,000 RoIs at every stage and branch; a multiply-add is one FLOP. Counted: convolutions with their
bias, linear layers without, norms as 2 per element, ReLU layers and pooling layers as 1 per element. Not
counted: functional calls (the RPN's ReLU, upsampling, additions, RoIAlign, softmax, NMS). Parameters are the
trainable ones.

>>> figures = complexity(Config().with_changes({"detector.variant": "fpn"}).detector)
>>> f"{figures.flops / 1e9:.2f} GFLOPs, {figures.params / 1e6:.2f} M"
'295.70 GFLOPs, 60.52 M'
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drcnn.config import Config, DetectorConfig
from drcnn.detector.detector import DecoupledRCNN, build_detector
from drcnn.detector.pooling import POOLED_SIZE
from drcnn.detector.roi_heads import RoIHeads

__all__ = ["Complexity", "ComplexityRow", "Part", "complexity", "paper_rows"]

PAPER = Path(__file__).parent / "paper_complexity.csv"
ROIS = 1000


@dataclass(frozen=True)
class Part:
    """FLOPs and trainable parameters of a part of the detector."""

    name: str
    flops: int
    params: int


@dataclass(frozen=True)
class Complexity:
    """The parts of a detector; none overlaps another."""

    parts: tuple[Part, ...]

    @property
    def flops(self) -> int:
        """FLOPs of the whole."""
        return sum(part.flops for part in self.parts)

    @property
    def params(self) -> int:
        """Trainable parameters of the whole."""
        return sum(part.params for part in self.parts)


def complexity(
    config: DetectorConfig, *, classes: int = 80, height: int = 1333, width: int = 800
) -> Complexity:
    """Count what ``config`` describes.

    Args:
        config: of the detector; its weights are not loaded.
        classes: K, without the background.
        height: of the image in pixels; ``width`` likewise.
    """
    # Frozen statistics are folded into their convolutions, where the hooks do not see them. Plain batch norms
    # have the same parameters, and each is counted.
    counted = config.model_copy(update={"norm": "batch"}) if config.norm == "frozen" else config
    with torch.device("meta"):
        detector = build_detector(counted, classes, pretrained=False).eval()
        flops = _count(detector, torch.empty(1, 3, height, width))
    names = [name for name, _ in _parts(detector)]
    return Complexity(
        tuple(
            Part(name, flops[name], sum(p.numel() for p in module.parameters() if p.requires_grad))
            for name, module in zip(names, (module for _, module in _parts(detector)), strict=True)
        )
    )


def _parts(detector: DecoupledRCNN) -> Iterator[tuple[str, nn.Module]]:
    """The parts, by name; together they hold all parameters."""
    yield "backbone", detector.pyramid.body
    yield "FPN", detector.pyramid.fpn
    yield "RPN", detector.rpn
    for number in range(1, len(detector.heads.stages) + 1):
        stage = detector.heads.stage(number)
        if any(True for _ in stage.stem.parameters()):
            yield f"stage {number} shared layers", stage.stem
        if stage.classifier is not None:
            yield f"stage {number} classifier", stage.classifier
        yield f"stage {number} regressor", stage.regressor


@torch.no_grad()
def _count(detector: DecoupledRCNN, images: Tensor) -> dict[str, int]:
    """Run every part once and sum the FLOPs of its layers."""
    flops = {}
    for name, part in _parts(detector):
        flops[name] = 0
        for layer in part.modules():
            layer.register_forward_hook(partial(_add, flops, name))
    features = detector.pyramid(images)
    detector.rpn(features)
    _run_heads(detector.heads, features[0].shape[1])
    return flops


def _run_heads(heads: RoIHeads, channels: int) -> None:
    for number in range(1, len(heads.stages) + 1):
        stage = heads.stage(number)
        hidden = stage.stem(torch.empty(ROIS, channels, POOLED_SIZE, POOLED_SIZE))
        if stage.classifier is not None:
            stage.classify(hidden)
        stage.regress(hidden)


def _add(flops: dict[str, int], part: str, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    flops[part] += _flops(layer, inputs[0], output)


def _flops(layer: nn.Module, layer_input: Any, output: Any) -> int:
    """FLOPs of one call of a layer; 0 for a module that only contains others."""
    match layer:
        case nn.Conv2d():
            kernel = layer.weight[0].numel()
            return int(output.numel()) * (kernel + (layer.bias is not None))
        case nn.Linear():
            return int(output.numel()) * layer.in_features
        case nn.BatchNorm2d() | nn.GroupNorm():
            return 2 * int(output.numel())
        case nn.ReLU() | nn.ReLU6():
            return int(output.numel())
        case nn.MaxPool2d() | nn.AvgPool2d():
            return int(layer_input.numel())
        case _:
            return 0


@dataclass(frozen=True)
class ComplexityRow:
    """A row of the paper's tables VIII to XI, as printed, and our count for it."""

    table: str
    backbone: str
    variant: str
    printed_gflops: str
    printed_params: str
    is_misprint: bool
    gflops: str
    params: str

    @property
    def gflops_agree(self) -> bool:
        """Whether they agree to the printed digit."""
        return self.gflops == self.printed_gflops

    @property
    def params_agree(self) -> bool:
        """Whether they agree to the printed digit."""
        return self.params == self.printed_params


def paper_rows() -> list[ComplexityRow]:
    """Count every detector whose complexity the paper prints."""
    counted: dict[tuple[str, str], Complexity] = {}
    rows = []
    with PAPER.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            key = row["backbone"], row["variant"]
            if key not in counted:
                changes = {"detector.backbone": row["backbone"], "detector.variant": row["variant"]}
                counted[key] = complexity(Config().with_changes(changes).detector)
            rows.append(
                ComplexityRow(
                    row["table"],
                    *key,
                    printed_gflops=row["gflops"],
                    printed_params=row["params_m"],
                    is_misprint=row["note"] == "misprint",
                    gflops=f"{counted[key].flops / 1e9:.2f}",
                    params=f"{counted[key].params / 1e6:.2f}",
                )
            )
    return rows
