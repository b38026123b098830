"""RoI features from a pyramid: one level a RoI, RoIAlign 7x7."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import roi_align

from drcnn.detector.roi_align import pyramid_roi_align

__all__ = ["POOLED_SIZE", "pool", "pyramid_level"]

POOLED_SIZE = 7


def pyramid_level(boxes: Tensor, levels: int = 4) -> Tensor:
    """Return int64[R], the index (0 for P2) of the level that serves each of ``boxes`` float32[R, 4].

    A box of side 112 to 224 is pooled from P3, and so on: floor(log2(sqrt(w h) / 56 + 1e-6)), clamped.
    """
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    return torch.log2(side / 56 + 1e-6).floor().clamp(0, levels - 1).long()


def pool(features: list[Tensor], image: Tensor, boxes: Tensor, enlarge: Tensor | float = 1.0) -> Tensor:
    """Return the features of R RoIs, [R, C, 7, 7].

    Args:
        features: maps [N, C, H, W] of P2, P3, P4, P5 (strides 4 to 32).
        image: int64[R], position in the batch; R may be 0.
        boxes: float32[R, 4], xyxy in image pixels.
        enlarge: factor by which RoIs grow about their centre, [R, 1] or one for all; each stays on the level
            of its original size.
    """
    # A diverging detector predicts NaN boxes, which are no indices; its loss reports that, not a crash here.
    boxes = boxes.nan_to_num()
    level = pyramid_level(boxes, len(features))
    if isinstance(enlarge, Tensor) or enlarge != 1.0:
        centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * enlarge
        boxes = torch.cat((centre - half, centre + half), dim=1)
    if boxes.device.type == "cpu":
        return pyramid_roi_align(features, level, image, boxes, size=POOLED_SIZE)
    rois = torch.cat((image[:, None].to(boxes.dtype), boxes), dim=1)
    # Sorted by level, each level's RoIs are one slice, and one read from the device serves all levels.
    order = level.argsort(stable=True)
    counts = torch.bincount(level, minlength=len(features)).tolist()
    pooled = [
        roi_align(feature, part, POOLED_SIZE, spatial_scale=0.25 / 2**number, sampling_ratio=0, aligned=True)
        for number, (feature, part) in enumerate(zip(features, torch.split(rois[order], counts), strict=True))
    ]
    return torch.cat(pooled)[order.argsort()]
