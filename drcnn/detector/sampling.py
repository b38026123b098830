"""Samplers: which candidates of each image enter a loss (Section III-B; docs/detector.md, 1 and 3).

Both sort random keys into a fixed number of slots, for all images at once and without waiting for the device.
A slot that no candidate fills is marked as not taken.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Sample", "sample_positives", "sample_random"]


class Sample(NamedTuple):
    """The chosen candidates of N images, positives first.

    Attributes:
        candidate: int64[N, S], index of the candidate in each slot.
        taken: bool[N, S], the slot is filled.
        positive: bool[N, S], the slot is filled by a positive.
    """

    candidate: Tensor
    taken: Tensor
    positive: Tensor


def sample_random(
    positive: Tensor, negative: Tensor, keys: Tensor, *, count: int, positive_fraction: float
) -> Sample:
    """Choose ``count`` candidates per image: positives up to a fraction, filled with negatives.

    Used for the RPN and, with a fraction of 0.25 (the 1:3 of the paper), for the classifier.

    Args:
        positive: bool[N, M]; negative: bool[N, M].
        keys: float32[N, M], random in [0, 1).
        count: slots per image.
        positive_fraction: share of ``count`` that positives may take.
    """
    slots = min(count, positive.shape[1])
    most = min(int(count * positive_fraction), slots)
    chosen = torch.topk(keys.masked_fill(~positive, -1.0), most, dim=1)
    # Chosen positives sort before all negatives; positives over the limit and ignored ones never enter.
    order = keys.masked_fill(~negative, -1.0)
    raised = torch.where(chosen.values >= 0, chosen.values + 2.0, order.gather(1, chosen.indices))
    return _sample(order.scatter(1, chosen.indices, raised), slots)


def sample_positives(positive: Tensor, keys: Tensor, *, count: int) -> Sample:
    """Choose up to ``count`` positives per image, uniformly where there are more: the regressors' sampler.

    The official sampler pads with negatives up to ``count``. They have no loss and the divisor is constant,
    so leaving them out only saves time, unless a batch norm sees them (``roi_sampling.sample_padded``).

    Args:
        positive: bool[N, M].
        keys: float32[N, M], random in [0, 1).
        count: slots per image.
    """
    return _sample(torch.where(positive, keys + 2.0, -1.0), min(count, positive.shape[1]))


def _sample(order: Tensor, slots: int) -> Sample:
    top = torch.topk(order, slots, dim=1)
    return Sample(top.indices, top.values >= 0, top.values >= 2)
