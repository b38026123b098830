"""The RoIs that a stage of the heads trains on, and how they move between stages (docs/detector.md, 2 to 5).

Shapes: N images, P padded proposals per image, G padded ground-truth boxes, R RoIs of the whole batch, K
foreground classes.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from drcnn.batch import Batch
from drcnn.detector.boxes import clip_boxes, decode
from drcnn.detector.matching import Matches, match_proposals
from drcnn.detector.random_keys import random_keys
from drcnn.detector.rpn import Proposals
from drcnn.detector.sampling import Sample, sample_positives, sample_random

__all__ = [
    "PURPOSE_REG",
    "RandomSampler",
    "RegressionSampler",
    "RoIs",
    "move",
    "own_class",
    "rematch",
    "sample_padded",
    "sample_positives_only",
    "to_proposals",
]

# Streams of random keys; the RPN's is 1. Stages after the first add PURPOSE_STAGE each.
PURPOSE_REG = 3
PURPOSE_STAGE = 16


class RoIs(NamedTuple):
    """R sampled RoIs of a batch, image by image.

    Attributes:
        image: int64[R], position in the batch.
        boxes: float32[R, 4].
        gt: float32[R, 4], the matched ground-truth box; defined for positives only.
        labels: int64[R], class of the matched box; -1 for background.
        slot: int64[R], place among the image's RoIs.
        is_gt: bool[R], the RoI is a ground-truth box that was added to the proposals.
    """

    image: Tensor
    boxes: Tensor
    gt: Tensor
    labels: Tensor
    slot: Tensor
    is_gt: Tensor

    def at(self, positions: Tensor) -> RoIs:
        """Return the RoIs at ``positions`` int64[P]."""
        return RoIs(*(value[positions] for value in self))

    def positives(self) -> Tensor:
        """Return int64[P], the positions of the positive RoIs."""
        return (self.labels >= 0).nonzero().squeeze(1)


class RegressionSampler(Protocol):
    """Chooses the first regression stage's RoIs."""

    def __call__(self, proposals: Proposals, batch: Batch, *, iou: float) -> RoIs:
        """Sample RoIs; positive are those with an IoU of at least ``iou``."""
        ...


class RandomSampler:
    """Adds the ground truth, takes positives up to a fraction and fills with negatives: 1:3 in the paper.

    Args:
        samples: RoIs per image, 512 in the paper.
        positive_fraction: the largest share of positives.
        purpose: the stream of its random keys.
    """

    def __init__(self, samples: int, positive_fraction: float, purpose: int = 2) -> None:
        self.samples = samples
        self.positive_fraction = positive_fraction
        self.purpose = purpose

    @torch.no_grad()
    def __call__(self, proposals: Proposals, batch: Batch, *, iou: float, stage: int = 1) -> RoIs:
        """Sample a stage's RoIs; positive are those with an IoU of at least ``iou``."""
        gt_valid = batch.labels >= 0
        # Ground truth goes last, so that its padding does not shift the proposals' random keys.
        candidates = Proposals(
            torch.cat((proposals.boxes, batch.boxes), dim=1), torch.cat((proposals.valid, gt_valid), dim=1)
        )
        matches = match_proposals(candidates.boxes, candidates.valid, batch.boxes, gt_valid, iou)
        # An added box matches itself, even where another ground-truth box coincides with it.
        first_gt = proposals.boxes.shape[1]
        matches.gt[:, first_gt:] = torch.arange(batch.boxes.shape[1], device=matches.gt.device)
        keys = random_keys(batch.keys, self.purpose + PURPOSE_STAGE * (stage - 1), candidates.boxes.shape[1])
        chosen = sample_random(
            matches.positive,
            matches.negative,
            keys,
            count=self.samples,
            positive_fraction=self.positive_fraction,
        )
        return _gather(chosen, candidates, matches, batch, first_gt=first_gt)


@torch.no_grad()
def sample_positives_only(proposals: Proposals, batch: Batch, *, samples: int, iou: float) -> RoIs:
    """Return all positive proposals, at most ``samples`` in an image, without ground truth (D9)."""
    matches = match_proposals(proposals.boxes, proposals.valid, batch.boxes, batch.labels >= 0, iou)
    keys = random_keys(batch.keys, PURPOSE_REG, proposals.boxes.shape[1])
    chosen = sample_positives(matches.positive, keys, count=samples)
    return _gather(chosen, proposals, matches, batch, first_gt=proposals.boxes.shape[1])


@torch.no_grad()
def sample_padded(proposals: Proposals, batch: Batch, *, samples: int, iou: float) -> RoIs:
    """Return the RoIs of ``sample_positives_only``, padded with random negatives as in the official code.

    Negatives have no loss, but a batch norm sees them (docs/detector.md, 5).
    """
    matches = match_proposals(proposals.boxes, proposals.valid, batch.boxes, batch.labels >= 0, iou)
    keys = random_keys(batch.keys, PURPOSE_REG, proposals.boxes.shape[1])
    chosen = sample_random(matches.positive, matches.negative, keys, count=samples, positive_fraction=1.0)
    return _gather(chosen, proposals, matches, batch, first_gt=proposals.boxes.shape[1])


def _gather(chosen: Sample, candidates: Proposals, matches: Matches, batch: Batch, *, first_gt: int) -> RoIs:
    """Collect the candidates in the filled slots."""
    image, slot = chosen.taken.nonzero(as_tuple=True)
    index = chosen.candidate[image, slot]
    boxes = candidates.boxes[image, index]
    if batch.boxes.shape[1] == 0:
        gt, labels = boxes, torch.full_like(image, -1)
    else:
        matched = matches.gt[image, index]
        gt = batch.boxes[image, matched]
        labels = batch.labels[image, matched].masked_fill(~chosen.positive[image, slot], -1)
    return RoIs(image, boxes, gt, labels, slot, index >= first_gt)


@torch.no_grad()
def move(rois: RoIs, deltas: Tensor, stds: tuple[float, ...], batch: Batch) -> Tensor:
    """Return the RoIs' boxes [R, 4] moved by ``deltas`` [R, 4] and clipped to their images."""
    return clip_boxes(decode(rois.boxes, deltas.detach(), stds), batch.sizes[rois.image])


@torch.no_grad()
def rematch(rois: RoIs, boxes: Tensor, batch: Batch, *, iou: float) -> RoIs:
    """Assign moved regression samples again (Eq. 7; docs/detector.md, D8): some may become negative.

    Args:
        rois: R RoIs.
        boxes: float32[R, 4], where they are now.
        batch: images with their ground truth.
        iou: overlap from which a RoI is positive.
    """
    if len(rois.image) == 0 or batch.boxes.shape[1] == 0:
        return rois._replace(boxes=boxes)
    gt, labels = batch.boxes[rois.image], batch.labels[rois.image]
    valid = torch.ones_like(rois.image, dtype=torch.bool)[:, None]
    matches = match_proposals(boxes[:, None], valid, gt, labels >= 0, iou)
    matched = matches.gt
    labels = labels.gather(1, matched).masked_fill(~matches.positive, -1).squeeze(1)
    gt = gt.gather(1, matched[:, :, None].expand(-1, 1, 4)).squeeze(1)
    return rois._replace(boxes=boxes, gt=gt, labels=labels)


@torch.no_grad()
def to_proposals(rois: RoIs, boxes: Tensor, batch: Batch, *, slots: int) -> Proposals:
    """Return moved RoIs as the next stage's proposals, without the ground truth added before."""
    padded = boxes.new_zeros(len(batch), slots, 4)
    valid = torch.zeros(len(batch), slots, dtype=torch.bool, device=boxes.device)
    padded[rois.image, rois.slot] = boxes
    valid[rois.image, rois.slot] = ~rois.is_gt
    return Proposals(padded, valid)


def own_class(deltas: Tensor, labels: Tensor) -> Tensor:
    """Select [R, 4] of [R, B, 4]: the deltas of the class, or the only ones of a class-agnostic stage."""
    if deltas.shape[1] == 1:
        return deltas[:, 0]
    return deltas.gather(1, labels[:, None, None].expand(-1, 1, 4)).squeeze(1)
