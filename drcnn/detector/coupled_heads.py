"""Heads whose branches train on the same RoIs: those of Faster R-CNN and Cascade R-CNN.

See docs/detector.md, section 2.
"""

from __future__ import annotations

from torch import Tensor

from drcnn.batch import Batch
from drcnn.detector.box_heads import Stage
from drcnn.detector.pooling import pool
from drcnn.detector.roi_heads import Inference, RoIHeads, classification_loss, regression_loss
from drcnn.detector.roi_sampling import RandomSampler, RoIs, move, own_class, to_proposals
from drcnn.detector.rpn import Proposals

__all__ = ["CoupledHeads"]


class CoupledHeads(RoIHeads):
    """Each stage samples at random, 1:3; the classifier takes all samples, the regressor the positives.

    Between stages all samples are moved by the regressor, the ground truth among them is dropped and added
    anew, and the next stage samples again with its own overlap (Cascade R-CNN).

    Args:
        stages: each with a classifier.
        inference: thresholds and stages of inference.
        sampler: used by every stage.
        lambda_reg: weight of the regression losses.
        beta: of the smooth L1 loss of regression; 0 is L1.
    """

    def __init__(
        self,
        stages: list[Stage],
        inference: Inference,
        *,
        sampler: RandomSampler,
        lambda_reg: float,
        beta: float,
    ) -> None:
        super().__init__(stages, inference)
        self.sampler = sampler
        self.lambda_reg = lambda_reg
        self.beta = beta

    def losses(
        self, features: list[Tensor], proposals_cls: Proposals, proposals_reg: Proposals, batch: Batch
    ) -> dict[str, Tensor]:
        """Return ``loss_cls``, ``loss_reg_1`` and, for later stages, ``loss_cls_2`` and so on.

        Both losses are divided by the number of samples, positive and negative. The two lists of proposals
        are identical here.
        """
        losses = {}
        proposals = proposals_cls
        for number in range(1, len(self.stages) + 1):
            stage = self.stage(number)
            rois = self.sampler(proposals, batch, iou=stage.iou, stage=number)
            if number == 1:
                self.note_unfilled("cls", rois, len(batch), self.sampler.samples)
            hidden = stage.stem(pool(features, rois.image, rois.boxes))
            loss_cls = classification_loss(stage.classify(hidden), rois)
            losses["loss_cls" if number == 1 else f"loss_cls_{number}"] = stage.weight * loss_cls

            positives = rois.positives()
            if number < len(self.stages):
                # The next stage starts from all samples, so all are regressed.
                deltas = own_class(stage.regress(hidden), rois.labels.clamp(min=0))
                proposals = self._moved(rois, deltas, stage, batch)
                deltas = deltas[positives]
            else:
                deltas = own_class(stage.regress(hidden[positives]), rois.labels[positives])
            total = regression_loss(deltas, rois.at(positives), stage.regressor.stds, self.beta)
            weight = self.lambda_reg * stage.weight
            losses[f"loss_reg_{number}"] = weight * total / max(len(rois.image), 1)
        return losses

    def _moved(self, rois: RoIs, deltas: Tensor, stage: Stage, batch: Batch) -> Proposals:
        boxes = move(rois, deltas, stage.regressor.stds, batch)
        return to_proposals(rois, boxes, batch, slots=self.sampler.samples)
