"""Backbones from torchvision with a feature pyramid on top (docs/detector.md, section 1).

State-dict names below ``body`` are torchvision's own, so its checkpoints load unchanged.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import record_function
from torchvision import models
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from drcnn.detector.fused import conv_norm_act
from drcnn.detector.norms import NORM_LAYERS

__all__ = ["Body", "MobileNetV2Body", "Pyramid", "ResNetBody", "build_body"]


class FoldingBasicBlock(BasicBlock):  # type: ignore[misc]
    """torchvision's block, with frozen norms folded into their convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to [N, C, H, W]."""
        out = conv_norm_act(self.conv1, self.bn1, self.relu, x)
        return conv_norm_act(self.conv2, self.bn2, self.relu, out, _shortcut(self.downsample, x))


class FoldingBottleneck(Bottleneck):  # type: ignore[misc]
    """torchvision's bottleneck, with frozen norms folded into their convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to [N, C, H, W]."""
        out = conv_norm_act(self.conv1, self.bn1, self.relu, x)
        out = conv_norm_act(self.conv2, self.bn2, self.relu, out)
        return conv_norm_act(self.conv3, self.bn3, self.relu, out, _shortcut(self.downsample, x))


def _shortcut(downsample: nn.Sequential | None, x: Tensor) -> Tensor:
    return x if downsample is None else conv_norm_act(downsample[0], downsample[1], None, x)  # type: ignore[arg-type]


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
            maps = self.maxpool(conv_norm_act(self.conv1, self.bn1, self.relu, maps))
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
            has_residual = isinstance(block, InvertedResidual) and block.use_res_connect
            maps = _run_chain(block, maps, maps if has_residual else None)
        return maps


def _run_chain(block: nn.Module, maps: Tensor, residual: Tensor | None) -> Tensor:
    """Apply convolutions, each with the norm and activation after it; the last adds ``residual``."""
    layers = [layer for layer in block.modules() if not any(layer.children())]
    begins = [at for at, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    for begin, end in itertools.pairwise([*begins, len(layers)]):
        conv, norm, act = (*layers[begin:end], None)[:3]
        added = residual if end == len(layers) else None
        maps = conv_norm_act(cast(nn.Conv2d, conv), norm, act, maps, added)
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
            pyramid = self._pyramid(maps)
            # The RPN's 1x1 layers and RoIAlign read all channels of a cell at once.
            return [feature.contiguous(memory_format=torch.channels_last) for feature in pyramid]

    def _pyramid(self, maps: list[Tensor]) -> list[Tensor]:
        """What torchvision's module computes, with its lateral sums where they cost no pass of their own."""
        fpn = self.fpn
        inner = [cast(nn.Conv2d, block[0]) for block in fpn.inner_blocks]
        outer = [cast(nn.Conv2d, block[0]) for block in fpn.layer_blocks]
        merged: Tensor | None = None
        pyramid: list[Tensor] = []
        for lateral, smooth, stage_map in reversed(list(zip(inner, outer, maps, strict=True))):
            above = None if merged is None else F.interpolate(merged, stage_map.shape[2:], mode="nearest")
            merged = conv_norm_act(lateral, None, None, stage_map, above)
            pyramid.insert(0, conv_norm_act(smooth, None, None, merged))
        return [*pyramid, F.max_pool2d(pyramid[-1], 1, stride=2)]
