"""From scored boxes to detections: class-wise NMS and the best of each image."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from drcnn.detector.soft_nms import soft_nms

__all__ = ["Detections", "postprocess"]


class Detections(NamedTuple):
    """D detections of a batch, each image's by falling score.

    Attributes:
        image: int64[D], position in the batch.
        boxes: float32[D, 4], xyxy in pixels of the batch's images.
        labels: int64[D], class 0..K-1.
        scores: float32[D].
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    scores: Tensor


def postprocess(
    image: Tensor,
    boxes: Tensor,
    labels: Tensor,
    scores: Tensor,
    *,
    images: int,
    nms_threshold: float,
    max_detections: int,
    soft: bool = False,
) -> Detections:
    """Suppress overlaps within each image and class; keep the best ``max_detections`` of each image.

    Args:
        image: int64[M], position in the batch.
        boxes: float32[M, 4]; labels: int64[M]; scores: float32[M], already above the score threshold.
        images: size of the batch.
        nms_threshold: IoU above which the lower-scored box goes.
        max_detections: kept per image, over all classes.
        soft: lower the scores of overlapping boxes instead (linear soft-NMS).
    """
    if soft:
        kept, decayed = soft_nms(
            image,
            boxes,
            labels,
            scores,
            images=images,
            threshold=nms_threshold,
            max_detections=max_detections,
        )
        return Detections(image[kept], boxes[kept], labels[kept], decayed)
    group = labels * images + image
    # batched_nms lays the groups side by side. With COCO's classes coordinates become so large that float32
    # resolves only 1/16 pixel, and an image's detections would depend on the batch that it is in.
    kept = batched_nms(boxes.double(), scores.double(), group, nms_threshold)
    image = image[kept]
    # Survivors come by falling score: count those of the same image before each, to know its rank.
    belongs = image[:, None] == torch.arange(images, device=image.device)
    rank = belongs.cumsum(dim=0).gather(1, image[:, None]).squeeze(1)
    kept = kept[rank <= max_detections]
    return Detections(image[rank <= max_detections], boxes[kept], labels[kept], scores[kept])
