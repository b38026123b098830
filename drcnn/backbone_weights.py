"""Which pretrained weights there are for a backbone, by name; ``drcnn.detector.weights`` loads them."""

from __future__ import annotations

from drcnn.pretrained import SHIPPED

__all__ = ["IMAGENET_BACKBONES", "WEIGHT_NAMES", "are_offered"]

# The values of ``detector.weights`` that are no path of a file.
WEIGHT_NAMES = ("imagenet", "digits", "none")
# Torchvision offers ImageNet weights for these, at full width.
IMAGENET_BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnext101_64x4d", "mobilenet_v2")


def are_offered(weights: str, backbone: str, width: float) -> bool:
    """Whether these weights exist for a backbone; a file is believed to fit.

    >>> are_offered("imagenet", "resnext101_32x4d", 1.0)
    False
    """
    if weights == "digits":
        return (backbone, width) in SHIPPED
    return weights != "imagenet" or (backbone in IMAGENET_BACKBONES and width == 1.0)
