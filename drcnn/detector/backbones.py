"""Backbones from torchvision with a feature pyramid on top (spec 1.0).

State-dict names below ``body`` are torchvision's own, so its checkpoints load unchanged.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import cast

from torch import Tensor, nn
from torchvision import models
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from drcnn.detector.batch_norm import GlobalBatchNorm2d

__all__ = ["Body", "MobileNetV2Body", "Pyramid", "ResNetBody", "build_body"]

RESNETS: dict[str, Callable[..., models.ResNet]] = {
    "resnet18": models.resnet18,
    "resnet50": models.resnet50,
    "resnet101": models.resnet101,
}


class FrozenStatsBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with fixed running statistics and trainable scale and bias ("norm_eval", spec 1.0)."""

    def train(self, mode: bool = True) -> FrozenStatsBatchNorm2d:
        """Stay in evaluation mode, whatever the model does."""
        super().train(False)
        return self


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(channels, 16), channels)


NORM_LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "frozen": FrozenStatsBatchNorm2d,
    "batch": GlobalBatchNorm2d,
    "group": _group_norm,
}


class Body(nn.Module):
    """A backbone without its classifier; gives the maps of strides 4, 8, 16 and 32.

    Attributes:
        channels: of the four maps.
        frozen: how many stages, from the first, are excluded from training.
    """

    channels: list[int]
    frozen: int = 0

    def stages(self) -> list[nn.Module]:
        """Return the parts that give C2, C3, C4, C5, in order; the first includes the stem."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> list[Tensor]:
        """Apply to normalised images [N, 3, H, W]."""
        maps = []
        for stage in self.stages():
            images = stage(images)
            maps.append(images)
        return maps

    def freeze(self, count: int) -> None:
        """Exclude the first ``count`` stages from training, their norm statistics too."""
        for stage in self.stages()[:count]:
            stage.requires_grad_(False)
        self.frozen = count

    def train(self, mode: bool = True) -> Body:
        """Set the mode of all but the frozen stages."""
        super().train(mode)
        for stage in self.stages()[: self.frozen]:
            stage.eval()
        return self


class ResNetBody(Body):
    """ResNet-18, -50 or -101 of torchvision."""

    def __init__(self, name: str, norm: str) -> None:
        super().__init__()
        resnet = RESNETS[name](weights=None, norm_layer=NORM_LAYERS[norm])
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2 = resnet.layer1, resnet.layer2
        self.layer3, self.layer4 = resnet.layer3, resnet.layer4
        base = resnet.fc.in_features // 8
        self.channels = [base, 2 * base, 4 * base, 8 * base]

    def stages(self) -> list[nn.Module]:
        """Stem and layer1, layer2, layer3, layer4."""
        stem = nn.Sequential(self.conv1, self.bn1, self.relu, self.maxpool, self.layer1)
        return [stem, self.layer2, self.layer3, self.layer4]


class MobileNetV2Body(Body):
    """MobileNetV2 of torchvision, with its channel multiplier."""

    CUTS = (0, 4, 7, 14, 19)

    def __init__(self, width: float, norm: str) -> None:
        super().__init__()
        network = models.mobilenet_v2(weights=None, width_mult=width, norm_layer=NORM_LAYERS[norm])
        self.features = network.features
        self.channels = [
            next(m.out_channels for m in reversed(list(stage.modules())) if isinstance(m, nn.Conv2d))
            for stage in self.stages()
        ]

    def stages(self) -> list[nn.Module]:
        """Blocks up to strides 4, 8, 16 and 32."""
        return [self.features[start:end] for start, end in zip(self.CUTS, self.CUTS[1:], strict=False)]


def build_body(name: str, *, width: float, norm: str) -> Body:
    """Return the backbone ``name`` with random weights.

    Args:
        name: 'resnet18', 'resnet50', 'resnet101' or 'mobilenet_v2'.
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
        """Return the five maps, finest first."""
        maps = OrderedDict((str(number), feature) for number, feature in enumerate(self.body(images)))
        return list(self.fpn(maps).values())
