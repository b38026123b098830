"""Heads whose branches train on RoIs of their own: the paper's (Section III; docs/detector.md, 3 to 5)."""

from __future__ import annotations

import torch
from torch import Tensor

from drcnn.batch import Batch
from drcnn.detector.box_heads import Stage
from drcnn.detector.pooling import pool
from drcnn.detector.roi_heads import Inference, RoIHeads, classification_loss, regression_loss
from drcnn.detector.roi_sampling import (
    RandomSampler,
    RegressionSampler,
    RoIs,
    move,
    own_class,
    rematch,
    to_proposals,
)
from drcnn.detector.rpn import Proposals

__all__ = ["DecoupledHeads"]


class DecoupledHeads(RoIHeads):
    """Classifier on Proposals_cls, cascaded regressors on Proposals_reg.

    The regressors' RoIs go from stage to stage: moved, assigned again, dropped where no longer positive. The
    classifier's RoIs follow only where later stages have classifiers too (Table X).

    Args:
        stages: the first with a classifier.
        inference: thresholds and stages of inference.
        cls_sampler: for the stages that have a classifier.
        reg_sampler: for the first stage's regressor; of Table I's random one only the positives are kept.
        pads: the regressors have a batch norm, which sees all RoIs that the official code shows it: the
            classifier's, and the negatives that ``reg_sampler`` then pads with. Only positives have a loss.
        samples: RoIs per image and branch, 512 in the paper; N times this divides the regression losses.
        lambda_reg: λ of Eq. 8.
    """

    def __init__(
        self,
        stages: list[Stage],
        inference: Inference,
        *,
        cls_sampler: RandomSampler,
        reg_sampler: RegressionSampler,
        pads: bool,
        samples: int,
        lambda_reg: float,
    ) -> None:
        super().__init__(stages, inference)
        self.cls_sampler = cls_sampler
        self.reg_sampler = reg_sampler
        self.pads = pads
        self.samples = samples
        self.lambda_reg = lambda_reg

    def losses(
        self, features: list[Tensor], proposals_cls: Proposals, proposals_reg: Proposals, batch: Batch
    ) -> dict[str, Tensor]:
        """Return ``loss_cls``, ``loss_reg_1`` and so on; their sum is the heads' loss (Eq. 8).

        L_cls is a mean over its samples. L_reg of stage k is λ·w_k·Σ|Δ - Δ*| / (512·N): a sum over positives
        only, with a divisor that does not depend on their number (docs/detector.md, D3).
        """
        losses = {}
        reg = self._regression_samples(proposals_reg, batch)
        for number in range(1, len(self.stages) + 1):
            stage = self.stage(number)
            if stage.classifier is None:
                hidden_reg = stage.stem(pool(features, reg.image, reg.boxes, stage.regressor.enlarge))
            else:
                cls = self.cls_sampler(proposals_cls, batch, iou=stage.iou, stage=number)
                if number == 1:
                    self.note_unfilled("cls", cls, len(batch), self.samples)
                hidden_cls, hidden_reg = self._both_hidden(features, cls, reg, stage)
                loss_cls = classification_loss(stage.classify(hidden_cls), cls)
                losses["loss_cls" if number == 1 else f"loss_cls_{number}"] = stage.weight * loss_cls
                if number < len(self.stages) and self.stage(number + 1).classifier is not None:
                    proposals_cls = self._moved(hidden_cls, cls, stage, batch)
                    torch.clear_autocast_cache()  # as in DecoupledRCNN.forward

            # Where the classifier's RoIs go along, they come first.
            deltas = stage.regress(hidden_reg)
            deltas = own_class(deltas[len(deltas) - len(reg.image) :], reg.labels.clamp(min=0))
            losses[f"loss_reg_{number}"] = stage.weight * self._regression_loss(deltas, reg, stage, batch)
            if number < len(self.stages):
                reg = self._moved_regression(reg, deltas, stage, batch, iou=self.stage(number + 1).iou)
        return losses

    def _regression_samples(self, proposals: Proposals, batch: Batch) -> RoIs:
        """Return the first regressor's RoIs: positives, with ``pads`` negatives too."""
        reg = self.reg_sampler(proposals, batch, iou=self.stage(1).iou)
        if self.pads or isinstance(self.reg_sampler, RandomSampler):
            self.note_unfilled("reg", reg, len(batch), self.samples)
            return reg if self.pads else reg.at(reg.positives())
        return reg

    def _both_hidden(
        self, features: list[Tensor], cls: RoIs, reg: RoIs, stage: Stage
    ) -> tuple[Tensor, Tensor]:
        """Pool both branches' RoIs at once, and apply the stem."""
        enlarge = stage.regressor.enlarge
        parts = [(cls, 1.0), (cls, enlarge), (reg, enlarge)] if self.pads else [(cls, 1.0), (reg, enlarge)]
        factors = [rois.boxes.new_full((len(rois.image), 1), factor) for rois, factor in parts]
        hidden = stage.stem(
            pool(
                features,
                torch.cat([rois.image for rois, _ in parts]),
                torch.cat([rois.boxes for rois, _ in parts]),
                torch.cat(factors) if enlarge != 1.0 else 1.0,
            )
        )
        return hidden[: len(cls.image)], hidden[len(cls.image) :]

    def _regression_loss(self, deltas: Tensor, reg: RoIs, stage: Stage, batch: Batch) -> Tensor:
        """λ·Σ|Δ - Δ*| / (512·N) over the positives."""
        if self.pads:
            positives = reg.positives()
            deltas, reg = deltas[positives], reg.at(positives)
        total = regression_loss(deltas, reg, stage.regressor.stds)
        return self.lambda_reg * total / (self.samples * len(batch))

    def _moved_regression(self, reg: RoIs, deltas: Tensor, stage: Stage, batch: Batch, *, iou: float) -> RoIs:
        """Return the next regressor's RoIs: positives moved, assigned again, and kept where still positive.

        Negatives stay where they are; without a batch norm to see them they are left out (D8).
        """
        boxes = move(reg, deltas, stage.regressor.stds, batch)
        boxes = torch.where(reg.labels[:, None] >= 0, boxes, reg.boxes)
        reg = rematch(reg, boxes, batch, iou=iou)
        return reg if self.pads else reg.at(reg.positives())

    @torch.no_grad()
    def _moved(self, hidden: Tensor, cls: RoIs, stage: Stage, batch: Batch) -> Proposals:
        """Return the classifier's samples, moved, as the next classifier's proposals; without gradient."""
        deltas = own_class(stage.regress(hidden), cls.labels.clamp(min=0))
        boxes = move(cls, deltas, stage.regressor.stds, batch)
        return to_proposals(cls, boxes, batch, slots=self.cls_sampler.samples)
