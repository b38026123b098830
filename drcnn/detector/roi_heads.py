"""The decoupled heads: one classifier, one or more regression stages, each on its own samples.

Section III of the paper; spec 1.3 and 1.4. Shapes: N images, G padded ground-truth boxes, P padded proposals,
R RoIs of the whole batch, K foreground classes; index K is the background.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drcnn.batch import Batch
from drcnn.detector.box_heads import Classifier, Regressor
from drcnn.detector.boxes import clip_boxes, decode, encode
from drcnn.detector.matching import match_proposals
from drcnn.detector.pooling import pool
from drcnn.detector.postprocess import Detections, postprocess
from drcnn.detector.random_keys import random_keys
from drcnn.detector.rpn import Proposals
from drcnn.detector.sampling import Sample, sample_positives, sample_random

__all__ = ["DecoupledHeads"]

POSITIVE_IOU = 0.5  # in every stage (spec 1.4)
RANDOM_PURPOSE_CLS = 2
RANDOM_PURPOSE_REG = 3


class _Positives(NamedTuple):
    """R regression samples of a batch: all positive, each with its ground-truth box."""

    image: Tensor  # int64[R]
    boxes: Tensor  # float32[R, 4]
    gt: Tensor  # float32[R, 4]
    labels: Tensor  # int64[R]

    def rois(self) -> Tensor:
        return torch.cat((self.image[:, None].float(), self.boxes), dim=1)


class DecoupledHeads(nn.Module):
    """Classifier on Proposals_cls, cascaded regressors on Proposals_reg.

    Args:
        classifier: shared by all stages; scores are those of the original proposal.
        regressors: stage 1 class-specific, later stages class-agnostic.
        samples: RoIs an image and branch, 512 in the paper; N times this divides the regression losses.
        positive_fraction: of the classifier's RoIs.
        regression_weights: λ times the stage's weight, one a stage.
        score_thr: lowest class score of a detection.
        nms_final: threshold of the class-wise NMS.
        max_detections: an image.
    """

    def __init__(
        self,
        classifier: Classifier,
        regressors: list[Regressor],
        *,
        samples: int,
        positive_fraction: float,
        regression_weights: list[float],
        score_thr: float,
        nms_final: float,
        max_detections: int,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.regressors = nn.ModuleList(regressors)
        self.stages = len(regressors)
        self.samples = samples
        self.positive_fraction = positive_fraction
        self.regression_weights = regression_weights
        self.score_thr = score_thr
        self.nms_final = nms_final
        self.max_detections = max_detections

    def regressor(self, stage: int) -> Regressor:
        """Return the regressor of a stage, counted from 1."""
        return cast(Regressor, self.regressors[stage - 1])

    def losses(
        self, features: list[Tensor], proposals_cls: Proposals, proposals_reg: Proposals, batch: Batch
    ) -> dict[str, Tensor]:
        """Return ``loss_cls`` and ``loss_reg_1`` ... already weighted: their sum is the heads' loss (Eq. 8).

        L_cls is a mean over its samples. L_reg of stage k is λ·w_k·Σ|Δ - Δ*| / (512·N): over positives only,
        with a divisor that does not depend on how many there are (spec 1.3, D3).
        """
        # 1. Sample each branch from its own list; pool both at once.
        cls_rois, cls_labels = self._classification_samples(proposals_cls, batch)
        positives = self._regression_samples(proposals_reg, batch)
        pooled = pool(features, torch.cat((cls_rois, positives.rois())))
        pooled_cls, pooled_reg = pooled[: len(cls_rois)], pooled[len(cls_rois) :]

        # 2. The classifier sees its own samples only.
        logits = self.classifier(pooled_cls).float()
        losses = {"loss_cls": F.cross_entropy(logits, cls_labels, reduction="sum") / max(len(cls_labels), 1)}

        # 3. Each regression stage starts from the boxes that the stage before has refined.
        for stage, weight in enumerate(self.regression_weights, start=1):
            regressor = self.regressor(stage)
            if stage > 1:
                pooled_reg = pool(features, positives.rois())
            deltas = self._own_class(regressor(pooled_reg).float(), positives.labels)
            targets = encode(positives.boxes, positives.gt, regressor.stds)
            total = (deltas - targets).abs().sum()
            losses[f"loss_reg_{stage}"] = weight * total / (self.samples * len(batch))
            if stage < self.stages:
                positives = self._refine(positives, deltas, regressor.stds, batch)
        return losses

    @torch.no_grad()
    def detect(self, features: list[Tensor], proposals: Proposals, sizes: Tensor) -> Detections:
        """Return the final detections of N images (spec 1.3 and 1.4, "Test").

        A proposal's class scores are known before any regression, so only proposals with a class above
        ``score_thr`` are regressed: the same detections for less work.

        Args:
            features: pyramid maps P2 to P5.
            proposals: the one list that feeds both branches at inference.
            sizes: float32[N, 2], unpadded height and width.
        """
        image, slot = proposals.valid.nonzero(as_tuple=True)
        rois = torch.cat((image[:, None].float(), proposals.boxes[image, slot]), dim=1)
        pooled = pool(features, rois)
        scores = self.classifier(pooled).float().softmax(dim=1)[:, :-1]

        # The cascade, on what can still become a detection.
        alive = (scores > self.score_thr).any(dim=1).nonzero().squeeze(1)
        image, boxes, scores, pooled = image[alive], rois[alive, 1:], scores[alive], pooled[alive]
        best = scores.argmax(dim=1)
        for stage in range(1, self.stages):
            deltas = self._own_class(self.regressor(stage)(pooled).float(), best)
            boxes = clip_boxes(decode(boxes, deltas, self.regressor(stage).stds), sizes[image])
            pooled = pool(features, torch.cat((image[:, None].float(), boxes), dim=1))

        # The last stage's deltas: class-specific where there is one stage, else shared by all classes.
        roi, label = (scores > self.score_thr).nonzero(as_tuple=True)
        last = self.regressor(self.stages)
        final = decode(boxes[roi], self._own_class(last(pooled).float()[roi], label), last.stds)
        return postprocess(
            image[roi],
            clip_boxes(final, sizes[image[roi]]),
            label,
            scores[roi, label],
            images=len(sizes),
            nms_threshold=self.nms_final,
            max_detections=self.max_detections,
        )

    @torch.no_grad()
    def _classification_samples(self, proposals: Proposals, batch: Batch) -> tuple[Tensor, Tensor]:
        """Ground truth added, positives to negatives 1:3. Returns RoIs [R, 5] and labels [R]."""
        gt_valid = batch.labels >= 0
        # Ground truth last: then how far it is padded does not shift the proposals' random keys.
        boxes = torch.cat((proposals.boxes, batch.boxes), dim=1)
        valid = torch.cat((proposals.valid, gt_valid), dim=1)
        matches = match_proposals(boxes, valid, batch.boxes, gt_valid, POSITIVE_IOU)
        chosen = sample_random(
            matches.positive,
            matches.negative,
            random_keys(batch.keys, RANDOM_PURPOSE_CLS, boxes.shape[1]),
            count=self.samples,
            positive_fraction=self.positive_fraction,
        )
        image, candidate = _taken(chosen)
        background = self.classifier.predictor.out_features - 1
        labels = torch.full_like(image, background)
        positive = chosen.positive[chosen.taken]
        if batch.labels.shape[1] > 0:
            labels = torch.where(positive, batch.labels[image, matches.gt[image, candidate]], labels)
        return torch.cat((image[:, None].float(), boxes[image, candidate]), dim=1), labels

    @torch.no_grad()
    def _regression_samples(self, proposals: Proposals, batch: Batch) -> _Positives:
        """Positives of Proposals_reg only; no ground truth added (spec D9)."""
        matches = match_proposals(
            proposals.boxes, proposals.valid, batch.boxes, batch.labels >= 0, POSITIVE_IOU
        )
        keys = random_keys(batch.keys, RANDOM_PURPOSE_REG, proposals.boxes.shape[1])
        image, candidate = _taken(sample_positives(matches.positive, keys, count=self.samples))
        gt = matches.gt[image, candidate]
        return _Positives(
            image, proposals.boxes[image, candidate], batch.boxes[image, gt], batch.labels[image, gt]
        )

    @torch.no_grad()
    def _refine(
        self, positives: _Positives, deltas: Tensor, stds: tuple[float, ...], batch: Batch
    ) -> _Positives:
        """Move the boxes by their own class's deltas and assign them again; drop what is no longer positive.

        The official code also carries its padding negatives along, unrefined. They stay negative and carry no
        loss (spec D8), so here they are not carried.
        """
        image = positives.image
        boxes = clip_boxes(decode(positives.boxes, deltas, stds), batch.sizes[image])
        valid = torch.ones_like(image, dtype=torch.bool)[:, None]
        gt, labels = batch.boxes[image], batch.labels[image]
        matches = match_proposals(boxes[:, None], valid, gt, labels >= 0, POSITIVE_IOU)
        keep = matches.positive.squeeze(1).nonzero().squeeze(1)
        index = matches.gt[keep, 0]
        return _Positives(
            image[keep], boxes[keep], batch.boxes[image[keep], index], batch.labels[image[keep], index]
        )

    @staticmethod
    def _own_class(deltas: Tensor, labels: Tensor) -> Tensor:
        """Select [R, 4] of [R, B, 4]: the class's own deltas, or the only ones of a class-agnostic stage."""
        if deltas.shape[1] == 1:
            return deltas[:, 0]
        return deltas.gather(1, labels[:, None, None].expand(-1, 1, 4)).squeeze(1)


def _taken(sample: Sample) -> tuple[Tensor, Tensor]:
    """Return the image and candidate index, int64[R] each, of the filled slots."""
    image, slot = sample.taken.nonzero(as_tuple=True)
    return image, sample.candidate[image, slot]
