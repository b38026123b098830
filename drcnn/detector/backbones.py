"""Backbones from torchvision with a feature pyramid on top (docs/detector.md, section 1).

State-dict names below ``body`` are torchvision's own, so its checkpoints load unchanged.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.profiler import record_function
from torchvision import models
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from drcnn.detector.norms import NORM_LAYERS, conv_norm

__all__ = ["Body", "MobileNetV2Body", "Pyramid", "ResNetBody", "build_body"]


class FoldingBasicBlock(BasicBlock):  # type: ignore[misc]
    """torchvision's block, with frozen norms folded into their convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to [N, C, H, W]."""
        out = self.relu(conv_norm(self.conv1, self.bn1, x))
        out = conv_norm(self.conv2, self.bn2, out)
        out += x if self.downsample is None else conv_norm(self.downsample[0], self.downsample[1], x)
        return cast(Tensor, self.relu(out))


class FoldingBottleneck(Bottleneck):  # type: ignore[misc]
    """torchvision's bottleneck, with frozen norms folded into their convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to [N, C, H, W]."""
        out = self.relu(conv_norm(self.conv1, self.bn1, x))
        out = self.relu(conv_norm(self.conv2, self.bn2, out))
        out = conv_norm(self.conv3, self.bn3, out)
        out += x if self.downsample is None else conv_norm(self.downsample[0], self.downsample[1], x)
        return cast(Tensor, self.relu(out))


class ResNetSpec(NamedTuple):
    """The shape of a ResNet: block, blocks in each stage, groups of the 3x3 convolutions, and their width."""

    block: type[BasicBlock | Bottleneck]
    layers: list[int]
    groups: int = 1
    width_per_group: int = 64


RESNETS = {
    "resnet18": ResNetSpec(FoldingBasicBlock, [2, 2, 2, 2]),
    "resnet34": ResNetSpec(FoldingBasicBlock, [3, 4, 6, 3]),
    "resnet50": ResNetSpec(FoldingBottleneck, [3, 4, 6, 3]),
    "resnet101": ResNetSpec(FoldingBottleneck, [3, 4, 23, 3]),
    "resnext101_32x4d": ResNetSpec(FoldingBottleneck, [3, 4, 23, 3], 32, 4),
    "resnext101_64x4d": ResNetSpec(FoldingBottleneck, [3, 4, 23, 3], 64, 4),
}


class Body(nn.Module):
    """A backbone without its classifier; returns the maps of strides 4, 8, 16 and 32.

    Attributes:
        channels: of the four maps.
        frozen: number of stages, from the first, that are excluded from training.
    """

    channels: list[int]
    frozen: int = 0

    def stages(self) -> list[list[nn.Module]]:
        """Return the layers that compute C2, C3, C4, C5, in order; the first list includes the stem."""
        raise NotImplementedError

    def run_stage(self, number: int, maps: Tensor) -> Tensor:
        """Apply the layers of a stage, counted from 0."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> list[Tensor]:
        """Apply to normalised images [N, 3, H, W]."""
        maps = [self.run_stage(0, images)]
        for number in range(1, 4):
            maps.append(self.run_stage(number, maps[-1]))
        return maps

    def freeze(self, count: int) -> None:
        """Exclude the first ``count`` stages from training, including their norm statistics."""
        for layer in itertools.chain.from_iterable(self.stages()[:count]):
            layer.requires_grad_(False)
        self.frozen = count

    def train(self, mode: bool = True) -> Body:
        """Set the mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        for layer in itertools.chain.from_iterable(self.stages()[: self.frozen]):
            layer.eval()
        return self


class ResNetBody(Body):
    """ResNet-18, -34, -50, -101, or ResNeXt-101, of torchvision's blocks."""

    def __init__(self, name: str, norm: str) -> None:
        super().__init__()
        resnet = models.ResNet(
            RESNETS[name].block,
            RESNETS[name].layers,
            groups=RESNETS[name].groups,
            width_per_group=RESNETS[name].width_per_group,
            norm_layer=NORM_LAYERS[norm],
        )
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2 = resnet.layer1, resnet.layer2
        self.layer3, self.layer4 = resnet.layer3, resnet.layer4
        base = resnet.fc.in_features // 8
        self.channels = [base, 2 * base, 4 * base, 8 * base]

    def stages(self) -> list[list[nn.Module]]:
        """Stem and layer1, layer2, layer3, layer4."""
        stem = [self.conv1, self.bn1, self.relu, self.maxpool, self.layer1]
        return [stem, [self.layer2], [self.layer3], [self.layer4]]

    def run_stage(self, number: int, maps: Tensor) -> Tensor:
        """Apply the stem and layer1, or a later layer."""
        if number == 0:
            maps = self.maxpool(self.relu(conv_norm(self.conv1, self.bn1, maps)))
            return cast(Tensor, self.layer1(maps))
        return cast(Tensor, self.stages()[number][0](maps))


class MobileNetV2Body(Body):
    """MobileNetV2 of torchvision, with its channel multiplier."""

    CUTS = (0, 4, 7, 14, 19)

    def __init__(self, width: float, norm: str) -> None:
        super().__init__()
        network = models.mobilenet_v2(weights=None, width_mult=width, norm_layer=NORM_LAYERS[norm])
        self.features = network.features
        self.channels = [
            next(m.out_channels for m in reversed(list(stage[-1].modules())) if isinstance(m, nn.Conv2d))
            for stage in self.stages()
        ]

    def stages(self) -> list[list[nn.Module]]:
        """Blocks up to strides 4, 8, 16 and 32."""
        return [list(self.features[a:b]) for a, b in zip(self.CUTS, self.CUTS[1:], strict=False)]

    def run_stage(self, number: int, maps: Tensor) -> Tensor:
        """Apply the blocks of one stride."""
        for block in self.stages()[number]:
            if isinstance(block, InvertedResidual):
                out = _run_folding(block.conv, maps)
                maps = maps + out if block.use_res_connect else out
            else:
                maps = _run_folding(cast(nn.Sequential, block), maps)
        return maps


def _run_folding(layers: nn.Sequential, maps: Tensor) -> Tensor:
    """Apply a chain of layers, each norm together with the convolution before it."""
    conv: nn.Module | None = None
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            conv = layer
        elif isinstance(layer, nn.Sequential):
            maps = _run_folding(layer, maps)
        elif conv is not None:
            maps, conv = conv_norm(conv, layer, maps), None
        else:
            maps = layer(maps)
    return maps


def build_body(name: str, *, width: float, norm: str) -> Body:
    """Return the backbone ``name`` with random weights.

    Args:
        name: as in ``DetectorConfig.backbone``.
        width: channel multiplier, MobileNetV2 only.
        norm: 'frozen' (pretrained statistics), 'batch' or 'group'.
    """
    return MobileNetV2Body(width, norm) if name == "mobilenet_v2" else ResNetBody(name, norm)


class Pyramid(nn.Module):
    """Backbone and FPN: normalised images [N, 3, H, W] to maps P2 to P6 of one channel count.

    P6 is every second cell of P5. Convolutions have a bias and neither norm nor activation.
    """

    def __init__(self, body: Body, channels: int) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(body.channels, channels, extra_blocks=LastLevelMaxPool())
        for layer in self.fpn.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.constant_(cast(Tensor, layer.bias), 0)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the five maps, finest first, with channels innermost in memory."""
        with record_function("backbone"):
            maps = self.body(images)
        with record_function("FPN"):
            pyramid = self.fpn(
                OrderedDict((str(level), stage_map) for level, stage_map in enumerate(maps))
            ).values()
            # The RPN's 1x1 layers and RoIAlign read all channels of a cell at once.
            return [feature.contiguous(memory_format=torch.channels_last) for feature in pyramid]
