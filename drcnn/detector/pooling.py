"""RoI features from a pyramid: one level a RoI, RoIAlign 7x7 (spec 1.0)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import roi_align

__all__ = ["POOLED_SIZE", "pool", "pyramid_level"]

POOLED_SIZE = 7


def pyramid_level(boxes: Tensor, levels: int = 4) -> Tensor:
    """Return int64[R], the index (0 for P2) of the level that serves each of ``boxes`` float32[R, 4].

    A box of side 112 to 224 is pooled from P3, and so on: floor(log2(sqrt(w h) / 56 + 1e-6)), clamped.
    """
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    return torch.log2(side / 56 + 1e-6).floor().clamp(0, levels - 1).long()


def pool(features: list[Tensor], rois: Tensor) -> Tensor:
    """Return the features of each RoI, [R, C, 7, 7].

    Args:
        features: maps [N, C, H, W] of P2, P3, P4, P5 (strides 4 to 32).
        rois: float32[R, 5], image index and xyxy box in image pixels; R may be 0.
    """
    level = pyramid_level(rois[:, 1:], len(features))
    # Sorted by level, each level's RoIs are one slice: a single read-back for all levels.
    order = level.argsort(stable=True)
    counts = torch.bincount(level, minlength=len(features)).tolist()
    pooled = [
        roi_align(feature, part, POOLED_SIZE, spatial_scale=0.25 / 2**number, sampling_ratio=0, aligned=True)
        for number, (feature, part) in enumerate(zip(features, torch.split(rois[order], counts), strict=True))
    ]
    return torch.cat(pooled)[order.argsort()]
