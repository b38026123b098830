"""Builds the RPN's head and the heads of a variant from parts, as ``drcnn.variants`` describes them."""

from __future__ import annotations

from functools import partial

from torch import nn

from drcnn.config import DetectorConfig
from drcnn.detector.box_heads import STAGE_STDS, Classifier, ConvTrunk, Regressor, Stage, TwoFC
from drcnn.detector.coupled_heads import CoupledHeads
from drcnn.detector.decoupled_heads import DecoupledHeads
from drcnn.detector.norms import NORM_LAYERS, GlobalBatchNorm2d
from drcnn.detector.roi_heads import Inference, RoIHeads
from drcnn.detector.roi_sampling import (
    PURPOSE_REG,
    RandomSampler,
    RegressionSampler,
    sample_padded,
    sample_positives_only,
)
from drcnn.detector.rpn import RPNHead
from drcnn.variants import VARIANTS

__all__ = ["build_heads", "build_rpn"]

# Double-Head's RoIs grow by this for the convolutional branch. The paper does not give the factor; this is
# the value of Double-Head's own authors (docs/detector.md, D17).
DOUBLE_HEAD_ENLARGE = 1.3


def build_rpn(config: DetectorConfig) -> RPNHead:
    """Return the RPN's head of ``config.variant``."""
    variant = VARIANTS[config.variant]
    return RPNHead(config.fpn_channels, beta=variant.rpn_beta, ignore_crossing=variant.rpn_ignores_crossing)


def build_heads(config: DetectorConfig, classes: int) -> RoIHeads:
    """Return the heads of ``config.variant`` for K = ``classes`` foreground classes."""
    variant = VARIANTS[config.variant]
    builder = _StageBuilder(config, classes)
    stages = [builder.stage(number) for number in range(1, config.stages + 1)]
    inference = Inference(
        score_thr=config.score_thr,
        nms=config.nms_final,
        soft=config.soft_nms,
        max_detections=config.max_detections,
        box_stage=config.test_stage,
        class_stage=config.test_classifier,
    )
    sampler = RandomSampler(config.roi_samples, config.cls_positive_fraction)
    if variant.proposal_lists == 1:
        return CoupledHeads(
            stages, inference, sampler=sampler, lambda_reg=config.lambda_reg, beta=variant.beta
        )
    pads = any(
        isinstance(layer, GlobalBatchNorm2d) for stage in stages for layer in stage.regressor.modules()
    )
    return DecoupledHeads(
        stages,
        inference,
        cls_sampler=sampler,
        reg_sampler=_regression_sampler(config, pads=pads),
        pads=pads,
        samples=config.roi_samples,
        lambda_reg=config.lambda_reg,
    )


def _regression_sampler(config: DetectorConfig, *, pads: bool) -> RegressionSampler:
    if VARIANTS[config.variant].regressor_sampling == "random":
        return RandomSampler(config.roi_samples, config.cls_positive_fraction, purpose=PURPOSE_REG)
    return partial(sample_padded if pads else sample_positives_only, samples=config.roi_samples)


class _StageBuilder:
    """Builds the stages of a configuration, numbered from 1.

    The order in which parts are made is the order in which a seed's random weights are drawn.
    """

    def __init__(self, config: DetectorConfig, classes: int) -> None:
        self.config = config
        self.variant = VARIANTS[config.variant]
        self.classes = classes

    def stage(self, number: int) -> Stage:
        """Return stage ``number`` with random weights."""
        has_classifier = number <= self.variant.classifiers(self.config.stages)
        stem: nn.Module | None = None
        classifier: Classifier | None
        if self.variant.trunk == "double_head":
            regressor = self._convolutional_regressor(number)
            classifier = self._classifier(self._two_fc()) if has_classifier else None
        elif self.variant.trunk == "shared" and has_classifier:
            classifier = self._classifier(nn.Identity())
            regressor = self._regressor(number, nn.Identity())
            stem = self._two_fc()
        else:
            classifier = self._classifier(self._two_fc()) if has_classifier else None
            # A stage without a classifier starts as in the official code (D11).
            regressor = self._regressor(number, self._two_fc(xavier=has_classifier))
        return Stage(
            classifier,
            regressor,
            iou=self.variant.ious[number - 1],
            weight=self.config.stage_weights[number - 1],
            stem=stem,
        )

    def _classifier(self, trunk: nn.Module) -> Classifier:
        return Classifier(trunk, self.config.fc_width, self.classes)

    def _regressor(self, number: int, trunk: nn.Module) -> Regressor:
        return Regressor(trunk, self.config.fc_width, self._boxes(number), stds=STAGE_STDS[number - 1])

    def _convolutional_regressor(self, number: int) -> Regressor:
        # The head learns from scratch, also on a backbone with frozen statistics.
        norm = "batch" if self.config.norm == "frozen" else self.config.norm
        trunk = ConvTrunk(self.config.fpn_channels, NORM_LAYERS[norm])
        return Regressor(
            trunk,
            trunk.width,
            self._boxes(number),
            stds=STAGE_STDS[number - 1],
            enlarge=DOUBLE_HEAD_ENLARGE,
            init_std=0.01,
        )

    def _boxes(self, number: int) -> int:
        """Boxes that a stage predicts for a RoI: one for each class, or one for all."""
        return self.classes if number == 1 and self.variant.class_specific else 1

    def _two_fc(self, *, xavier: bool = True) -> TwoFC:
        return TwoFC(self.config.fpn_channels, self.config.fc_width, xavier=xavier)
