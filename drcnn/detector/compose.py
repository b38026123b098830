"""The heads of each variant, composed from parts (spec 1.1 to 1.9)."""

from __future__ import annotations

from functools import partial

from torch import nn

from drcnn.config import DetectorConfig
from drcnn.detector.box_heads import STAGE_STDS, Classifier, ConvTrunk, Regressor, Stage, TwoFC
from drcnn.detector.coupled_heads import CoupledHeads
from drcnn.detector.decoupled_heads import DecoupledHeads
from drcnn.detector.norms import NORM_LAYERS
from drcnn.detector.roi_heads import Inference, RoIHeads
from drcnn.detector.roi_sampling import RandomPositives, RandomSampler, sample_positives_only
from drcnn.detector.rpn import RPNHead

__all__ = ["build_heads", "build_rpn"]

CASCADE_IOUS = (0.5, 0.6, 0.7)
# Double-Head's RoIs grow by this for the convolutional branch (spec 1.8: not published, its authors' value).
DOUBLE_HEAD_ENLARGE = 1.3


def build_rpn(config: DetectorConfig) -> RPNHead:
    """Return the RPN's head: Cascade R-CNN's has its own loss and ignores anchors across the border."""
    if config.variant == "cascade_rcnn":
        return RPNHead(config.fpn_channels, beta=1 / 9, ignore_crossing=True)
    return RPNHead(config.fpn_channels)


def build_heads(config: DetectorConfig, classes: int) -> RoIHeads:
    """Return the heads of ``config.variant`` for K = ``classes`` foreground classes."""
    stages = _stages(config, classes)
    inference = Inference(
        score_thr=config.score_thr,
        nms=config.nms_final,
        soft=config.soft_nms,
        max_detections=config.max_detections,
        box_stage=config.test_stage,
        class_stage=config.test_classifier,
    )
    at_random = RandomSampler(config.roi_samples, config.cls_positive_fraction)
    if config.variant in {"fpn", "fpn_unshared", "cascade_rcnn"}:
        beta = 1.0 if config.variant == "cascade_rcnn" else 0.0
        return CoupledHeads(stages, inference, sampler=at_random, lambda_reg=config.lambda_reg, beta=beta)
    return DecoupledHeads(
        stages,
        inference,
        cls_sampler=at_random,
        reg_sampler=RandomPositives(config.roi_samples, config.cls_positive_fraction)
        if config.variant == "two_samplings"
        else partial(sample_positives_only, samples=config.roi_samples),
        samples=config.roi_samples,
        lambda_reg=config.lambda_reg,
    )


def _stages(config: DetectorConfig, classes: int) -> list[Stage]:
    parts = _Parts(config, classes)
    numbers = range(1, config.stages + 1)
    match config.variant:
        case "fpn" | "decoupled_shared":
            return [parts.shared(1, classes)]
        case "fpn_unshared" | "two_samplings":
            return [parts.unshared(1, classes)]
        case "decoupled":
            return [parts.unshared(1, classes), *(parts.regression_only(k) for k in numbers[1:])]
        case "cascade_rcnn":
            return [parts.shared(k, 1, iou=CASCADE_IOUS[k - 1]) for k in numbers]
        case "decoupled_cascade_cls":
            return [parts.unshared(k, 1, iou=CASCADE_IOUS[k - 1]) for k in numbers]
        case "double_head":
            return [parts.double(k, classes) for k in numbers]


class _Parts:
    """Makes stages, numbered from 1, of a configuration's sizes."""

    def __init__(self, config: DetectorConfig, classes: int) -> None:
        self.config = config
        self.classes = classes

    def shared(self, number: int, boxes: int, *, iou: float = 0.5) -> Stage:
        """Both predictors on one trunk."""
        return Stage(
            Classifier(nn.Identity(), self.config.fc_width, self.classes),
            Regressor(nn.Identity(), self.config.fc_width, boxes, stds=STAGE_STDS[number - 1]),
            iou=iou,
            weight=self.config.stage_weights[number - 1],
            stem=self._two_fc(),
        )

    def unshared(self, number: int, boxes: int, *, iou: float = 0.5) -> Stage:
        """Each predictor on a trunk of its own."""
        return Stage(
            Classifier(self._two_fc(), self.config.fc_width, self.classes),
            Regressor(self._two_fc(), self.config.fc_width, boxes, stds=STAGE_STDS[number - 1]),
            iou=iou,
            weight=self.config.stage_weights[number - 1],
        )

    def regression_only(self, number: int) -> Stage:
        """A class-agnostic regressor (spec D10)."""
        trunk = self._two_fc(xavier=False)
        return Stage(
            None,
            Regressor(trunk, self.config.fc_width, 1, stds=STAGE_STDS[number - 1]),
            weight=self.config.stage_weights[number - 1],
        )

    def double(self, number: int, classes: int) -> Stage:
        """Double-Head: fully connected classifier in the first stage, convolutional regressors."""
        # The head learns from scratch, also on a backbone with frozen statistics.
        norm = "batch" if self.config.norm == "frozen" else self.config.norm
        trunk = ConvTrunk(self.config.fpn_channels, NORM_LAYERS[norm])
        regressor = Regressor(
            trunk,
            trunk.width,
            classes if number == 1 else 1,
            stds=STAGE_STDS[number - 1],
            enlarge=DOUBLE_HEAD_ENLARGE,
            init_std=0.01,
        )
        classifier = Classifier(self._two_fc(), self.config.fc_width, classes) if number == 1 else None
        return Stage(classifier, regressor, weight=self.config.stage_weights[number - 1])

    def _two_fc(self, *, xavier: bool = True) -> TwoFC:
        return TwoFC(self.config.fpn_channels, self.config.fc_width, xavier=xavier)
