"""What all heads share: their stages, losses and inference (docs/detector.md, 3 to 5).

Shapes: N images, R RoIs of the whole batch, K foreground classes; index K of a class axis is the background.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drcnn.batch import Batch
from drcnn.detector.box_heads import Stage
from drcnn.detector.boxes import clip_boxes, decode, encode
from drcnn.detector.pooling import pool
from drcnn.detector.postprocess import Detections, postprocess
from drcnn.detector.roi_sampling import RoIs, own_class
from drcnn.detector.rpn import Proposals

__all__ = ["Inference", "RoIHeads", "classification_loss", "regression_loss"]


class Inference(NamedTuple):
    """Thresholds and stages of inference.

    Attributes:
        score_thr: class scores must exceed it.
        nms: threshold of the class-wise NMS; ``soft``: linear soft-NMS instead.
        max_detections: kept per image.
        box_stage: take the boxes after this many regressors (i of Table X); ``None``: after all.
        class_stage: take the scores of this stage's classifier (j of Table X); ``None``: the mean of all.
    """

    score_thr: float = 0.05
    nms: float = 0.5
    soft: bool = False
    max_detections: int = 100
    box_stage: int | None = None
    class_stage: int | None = None


class RoIHeads(nn.Module):
    """Stages of classifiers and regressors; subclasses choose the RoIs that each stage trains on.

    Args:
        stages: in order; the first has a classifier.
        inference: thresholds and stages of inference.
    """

    def __init__(self, stages: list[Stage], inference: Inference) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.inference = inference
        self._unfilled: dict[str, Tensor] = {}

    def stage(self, number: int) -> Stage:
        """Return a stage, counted from 1."""
        return cast(Stage, self.stages[number - 1])

    def losses(
        self, features: list[Tensor], proposals_cls: Proposals, proposals_reg: Proposals, batch: Batch
    ) -> dict[str, Tensor]:
        """Return weighted losses; their sum is the heads' loss.

        Args:
            features: pyramid maps P2 to P5.
            proposals_cls: the list made with NMS_cls.
            proposals_reg: the list made with NMS_reg.
            batch: images with their ground truth.
        """
        raise NotImplementedError

    @torch.no_grad()
    def note_unfilled(self, branch: str, rois: RoIs, images: int, samples: int) -> None:
        """Add the share of a step's images that have fewer RoIs than ``samples``; waits for no device."""
        counts = torch.zeros(images, device=rois.image.device)
        counts = counts.index_add(0, rois.image, torch.ones_like(rois.image, dtype=counts.dtype))
        share = (counts < samples).float().mean()
        self._unfilled[f"unfilled_{branch}"] = self._unfilled.get(f"unfilled_{branch}", 0) + share

    def take_unfilled(self) -> dict[str, Tensor]:
        """Return the sums of what was noted, ``unfilled_cls`` and perhaps ``unfilled_reg``; begin anew."""
        noted, self._unfilled = self._unfilled, {}
        return noted

    @torch.no_grad()
    def detect(self, features: list[Tensor], proposals: Proposals, sizes: Tensor) -> Detections:
        """Return the final detections of N images.

        After the last classifier the scores are final, so later stages run only on RoIs with a class above
        ``score_thr``. That saves work and changes no detection.

        Args:
            features: pyramid maps P2 to P5.
            proposals: the one list that feeds all branches at inference.
            sizes: float32[N, 2], unpadded height and width.
        """
        last = self.inference.box_stage or len(self.stages)
        scoring = self.scoring_stages(last)
        image, slot = proposals.valid.nonzero(as_tuple=True)
        boxes = proposals.boxes[image, slot]
        logits = scores = boxes.new_zeros(())
        for number in range(1, last + 1):
            stage = self.stage(number)
            hidden = None
            # 1. The classifier, if its scores count.
            if number in scoring:
                hidden = stage.stem(pool(features, image, boxes))
                logits = logits + stage.classify(hidden)
            # 2. After the last one, keep only RoIs that can still become a detection.
            if number == scoring[-1]:
                scores = (logits / len(scoring)).softmax(dim=1)[:, :-1]
                alive = (scores > self.inference.score_thr).any(dim=1).nonzero().squeeze(1)
                image, boxes, scores = image[alive], boxes[alive], scores[alive]
                hidden = None if hidden is None else hidden[alive]
            # 3. Regression; before the last stage, with the deltas of the best class (D6).
            if hidden is None or stage.regressor.enlarge != 1.0:
                hidden = stage.stem(pool(features, image, boxes, stage.regressor.enlarge))
            deltas = stage.regress(hidden)
            if number < last:
                best = scores.argmax(dim=1) if deltas.shape[1] > 1 else image
                boxes = decode(boxes, own_class(deltas, best), stage.regressor.stds)
                boxes = clip_boxes(boxes, sizes[image])

        # 4. A class-specific regressor gives a box for each class; otherwise all classes share one.
        roi, label = (scores > self.inference.score_thr).nonzero(as_tuple=True)
        final = decode(boxes[roi], own_class(deltas[roi], label), stage.regressor.stds)
        return postprocess(
            image[roi],
            clip_boxes(final, sizes[image[roi]]),
            label,
            scores[roi, label],
            images=len(sizes),
            nms_threshold=self.inference.nms,
            max_detections=self.inference.max_detections,
            soft=self.inference.soft,
        )

    def scoring_stages(self, last: int) -> list[int]:
        """The stages whose logits are averaged to scores (docs/detector.md, D12)."""
        if self.inference.class_stage is not None:
            return [self.inference.class_stage]
        return [number for number in range(1, last + 1) if self.stage(number).classifier is not None]


def classification_loss(logits: Tensor, rois: RoIs) -> Tensor:
    """Return the mean cross entropy; 0 without RoIs.

    Args:
        logits: float32[R, K + 1].
        rois: R RoIs; label -1 is class K.
    """
    targets = torch.where(rois.labels < 0, logits.shape[1] - 1, rois.labels)
    return F.cross_entropy(logits, targets, reduction="sum") / max(len(targets), 1)


def regression_loss(deltas: Tensor, rois: RoIs, stds: tuple[float, ...], beta: float = 0.0) -> Tensor:
    """Return the sum over RoIs and coordinates of |Δ - Δ*|, smooth below ``beta``.

    Args:
        deltas: float32[R, 4], each RoI's own.
        rois: R positive RoIs.
        stds: the stage's delta normalisation.
        beta: of the smooth L1 loss; 0 is L1.
    """
    targets = encode(rois.boxes, rois.gt, stds)
    return F.smooth_l1_loss(deltas, targets, reduction="sum", beta=beta)
