"""Linear soft-NMS, class by class, for all images at once (Bodla et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from drcnn.detector.boxes import paired_iou

__all__ = ["soft_nms"]

# Detections whose score decays below this are dropped, as in the official configurations.
MIN_SCORE = 0.001


def soft_nms(
    image: Tensor,
    boxes: Tensor,
    labels: Tensor,
    scores: Tensor,
    *,
    images: int,
    threshold: float,
    max_detections: int,
) -> tuple[Tensor, Tensor]:
    """Return the detections, by falling score within each image: positions int64[D] and scores float32[D].

    Repeatedly, the best box of an image is taken, and the score s of each box of its class that overlaps it
    by more than ``threshold`` becomes s · (1 - IoU). Scores only fall and classes do not affect each other,
    so taking the best of all classes keeps each class's own order. The first ``max_detections`` boxes taken
    are therefore the result, and that many steps are enough for any number of boxes.

    Args:
        image: int64[M], position in the batch; M may be 0.
        boxes: float32[M, 4]; labels: int64[M]; scores: float32[M].
        images: size of the batch.
        threshold: IoU above which scores decay.
        max_detections: kept per image.
    """
    # A row for each image, as long as the fullest one needs.
    order = image.argsort(stable=True)
    counts = torch.bincount(image, minlength=images)
    longest = int(counts.max()) if len(image) else 0
    column = torch.arange(longest, device=image.device)
    is_filled = column < counts[:, None]
    source = torch.zeros_like(is_filled, dtype=torch.int64)
    source[is_filled] = order
    score = torch.full_like(is_filled, -1.0, dtype=torch.float32)
    score[is_filled] = scores[order]
    box, label = boxes[source] if longest else boxes.new_zeros(images, 0, 4), labels[source]

    taken, taken_scores = [], []
    for _ in range(min(max_detections, longest)):
        best, at = score.max(dim=1, keepdim=True)
        taken.append(source.gather(1, at))
        taken_scores.append(best)
        iou = paired_iou(box, box.gather(1, at[..., None].expand(-1, -1, 4)))
        decays = (label == label.gather(1, at)) & (iou > threshold)
        score = torch.where(decays, score * (1 - iou), score).scatter(1, at, -1.0)
    if not taken:
        return image[:0], scores[:0]
    all_taken, all_scores = torch.cat(taken, dim=1), torch.cat(taken_scores, dim=1)
    keep = all_scores >= MIN_SCORE
    return all_taken[keep], all_scores[keep]
