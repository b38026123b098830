"""The parts of the detector that are exported in another form: non-maximum suppression and RoI features.

Both compute what ``drcnn.detector`` does, as operations that ONNX has. Suppression is an operator of our
own, ``drcnn::nms``, that torch runs and the exporter translates to ``NonMaxSuppression``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms, roi_align

from drcnn.detector.pooling import POOLED_SIZE, pyramid_level

__all__ = ["pool_exported", "suppress"]


@torch.library.custom_op("drcnn::nms", mutates_args=())
def suppress(boxes: Tensor, scores: Tensor, iou: float, most: int, above: float) -> Tensor:
    """Suppress overlaps within each of G groups.

    Args:
        boxes: float32[G, N, 4], xyxy.
        scores: float32[G, N].
        iou: above which the lower-scored box goes.
        most: boxes kept of a group.
        above: boxes of this score or a lower one take no part.

    Returns:
        int64[S, 2]: group, and place in it, of the boxes that stay.
    """
    kept = [scores.new_zeros(0, 2, dtype=torch.int64)]
    for group, (own_boxes, own_scores) in enumerate(zip(boxes, scores, strict=True)):
        taken = (own_scores > above).nonzero().squeeze(1)
        places = taken[nms(own_boxes[taken], own_scores[taken], iou)][:most]
        kept.append(torch.stack((torch.full_like(places, group), places), dim=1))
    return torch.cat(kept)


@suppress.register_fake
def _(boxes: Tensor, scores: Tensor, iou: float, most: int, above: float) -> Tensor:
    count = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(count, 2, dtype=torch.int64)


def pool_exported(features: list[Tensor], boxes: Tensor, enlarge: float) -> Tensor:
    """Return the features of R RoIs of one image, [R, C, 7, 7], as ``drcnn.detector.pooling.pool`` does.

    Args:
        features: maps [1, C, H, W] of P2, P3, P4, P5.
        boxes: float32[R, 4], xyxy in pixels of the image.
        enlarge: factor by which RoIs grow about their centre.
    """
    level = pyramid_level(boxes, len(features))
    if enlarge != 1.0:
        centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * enlarge
        boxes = torch.cat((centre - half, centre + half), dim=1)
    rois = torch.cat((torch.zeros_like(boxes[:, :1]), boxes), dim=1)
    pooled = boxes.new_zeros(boxes.shape[0], features[0].shape[1], POOLED_SIZE, POOLED_SIZE)
    for number, feature in enumerate(features):
        own = (level == number).nonzero().squeeze(1)
        scale = 0.25 / 2**number
        part = roi_align(feature, rois[own], POOLED_SIZE, spatial_scale=scale, sampling_ratio=0, aligned=True)
        pooled = pooled.index_copy(0, own, part)
    return pooled
