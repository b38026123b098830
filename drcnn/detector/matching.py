"""Assignment of anchors and proposals to ground truth by IoU (docs/detector.md, 1 and 3).

Ground truth is padded: boxes [..., G, 4] with ``valid`` [..., G]. A padded box never matches anything.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from drcnn.detector.boxes import pairwise_iou

__all__ = ["Matches", "match_anchors", "match_proposals"]


class Matches(NamedTuple):
    """The ground-truth box of each candidate.

    Attributes:
        gt: int64[..., M], index of the matched ground-truth box; meaningful where positive.
        positive: bool[..., M].
        negative: bool[..., M]; candidates that are neither take no part in the loss.
    """

    gt: Tensor
    positive: Tensor
    negative: Tensor


def match_proposals(
    proposals: Tensor, valid: Tensor, gt: Tensor, gt_valid: Tensor, threshold: float
) -> Matches:
    """Match each proposal to the box that it overlaps most; positive from ``threshold`` on, else negative.

    No low-quality matches. Without ground truth every valid proposal is negative.

    Args:
        proposals: float32[..., P, 4].
        valid: bool[..., P].
        gt: float32[..., G, 4], G may be 0.
        gt_valid: bool[..., G].
        threshold: IoU from which a proposal is positive, 0.5 in every stage of the paper's detector.
    """
    if gt.shape[-2] == 0:
        return Matches(torch.zeros_like(valid, dtype=torch.int64), torch.zeros_like(valid), valid)
    iou, index = pairwise_iou(proposals, gt).masked_fill(~gt_valid[..., None, :], -1.0).max(dim=-1)
    positive = valid & (iou >= threshold)
    return Matches(index, positive, valid & ~positive)


def match_anchors(anchors: Tensor, valid: Tensor, gt: Tensor, gt_valid: Tensor) -> Matches:
    """RPN assignment of one image: positive from IoU 0.7, negative below 0.3, ignored between.

    Each ground-truth box also takes every anchor that ties for its highest IoU, if that is at least 0.3, even
    an anchor that overlaps another box more; among several such boxes the last wins, as in the official code.

    Args:
        anchors: float32[A, 4].
        valid: bool[A], anchors that lie on the image.
        gt: float32[G, 4], G may be 0.
        gt_valid: bool[G].
    """
    if gt.shape[0] == 0:
        return Matches(torch.zeros_like(valid, dtype=torch.int64), torch.zeros_like(valid), valid)
    iou = pairwise_iou(anchors, gt).masked_fill(~(valid[:, None] & gt_valid), -1.0)
    best, index = iou.max(dim=1)
    best_of_gt = iou.amax(dim=0)
    claimed = (iou == best_of_gt) & (best_of_gt >= 0.3)
    rank = torch.arange(1, len(gt) + 1, device=gt.device)
    last_claim = (claimed * rank).amax(dim=1)
    index = torch.where(last_claim > 0, last_claim - 1, index)
    positive = valid & ((best >= 0.7) | (last_claim > 0))
    return Matches(index, positive, valid & ~positive & (best < 0.3))
