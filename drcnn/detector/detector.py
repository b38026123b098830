"""Decoupled R-CNN: RPN, one list of proposals for each branch, decoupled heads, detections (Fig. 3).

>>> from drcnn.config import Config
>>> config = Config().with_changes({"detector.weights": "none", "detector.norm": "batch",
...     "detector.frozen_stages": 0, "detector.backbone": "resnet18"})
>>> detector = build_detector(config.detector, classes=20)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drcnn.batch import Batch
from drcnn.config import DetectorConfig
from drcnn.detector.backbones import Pyramid, build_body
from drcnn.detector.box_heads import Classifier, Regressor
from drcnn.detector.postprocess import Detections
from drcnn.detector.roi_heads import DecoupledHeads
from drcnn.detector.rpn import RPNHead, anchors_for, propose, rpn_losses
from drcnn.detector.weights import load_backbone

__all__ = ["DecoupledRCNN", "build_detector"]

IMAGE_MEAN = (123.675, 116.28, 103.53)
IMAGE_STD = (58.395, 57.12, 57.375)


class DecoupledRCNN(nn.Module):
    """The whole detector. ``forward`` gives losses, ``detect`` gives detections.

    Args:
        pyramid: backbone and FPN.
        rpn: head shared by the five levels.
        heads: classifier and regression stages.
        config: thresholds and counts of the proposals.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, pyramid: Pyramid, rpn: RPNHead, heads: DecoupledHeads, config: DetectorConfig) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.rpn = rpn
        self.heads = heads
        self.config = config
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGE_STD).view(3, 1, 1), persistent=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted losses; their sum is what training minimises (Eq. 8 plus the RPN's)."""
        features = self._features(batch)
        output = self.rpn(features)
        anchors = anchors_for(features, self.config.anchor_scale)
        losses = rpn_losses(output, anchors, batch, samples=self.config.rpn_samples)
        proposals_cls, proposals_reg = propose(
            output,
            anchors,
            batch.sizes,
            nms_thresholds=(self.config.nms_cls, self.config.nms_reg),
            pre_nms=self.config.rpn_pre_nms_train,
            post_nms=self.config.rpn_post_nms,
        )
        losses |= self.heads.losses(features[:4], proposals_cls, proposals_reg, batch)
        return losses

    @torch.no_grad()
    def detect(self, batch: Batch) -> Detections:
        """Return the detections, in pixels of the batch's images."""
        features = self._features(batch)
        (proposals,) = propose(
            self.rpn(features),
            anchors_for(features, self.config.anchor_scale),
            batch.sizes,
            nms_thresholds=(self.config.nms_test,),
            pre_nms=self.config.rpn_pre_nms_test,
            post_nms=self.config.rpn_post_nms,
        )
        return self.heads.detect(features[:4], proposals, batch.sizes)

    def _features(self, batch: Batch) -> list[Tensor]:
        images = (batch.images.float() - self.mean) / self.std
        # The padding is zero after normalisation, as in the official code: the mean colour, not black.
        height = torch.arange(images.shape[2], device=images.device)[:, None] < batch.sizes[:, :1, None]
        width = torch.arange(images.shape[3], device=images.device) < batch.sizes[:, 1:, None]
        images = images * (height & width)[:, None]
        features: list[Tensor] = self.pyramid(images)
        return features


def build_detector(config: DetectorConfig, classes: int, *, pretrained: bool = True) -> DecoupledRCNN:
    """Compose the detector that ``config`` describes; random parts draw from torch's global generator.

    Args:
        config: architecture and thresholds.
        classes: K, without the background.
        pretrained: load ``config.weights``; not needed where a checkpoint is loaded afterwards.

    Raises:
        ConfigError: the pretrained weights cannot be had or do not fit.
    """
    body = build_body(config.backbone, width=config.backbone_width, norm=config.norm)
    if pretrained:
        load_backbone(body, config.backbone, config.weights)
    body.freeze(config.frozen_stages)
    channels = config.fpn_channels
    heads = DecoupledHeads(
        Classifier(channels, config.fc_width, classes),
        [
            Regressor(channels, config.fc_width, classes if stage == 1 else 1, stage=stage)
            for stage in range(1, config.stages + 1)
        ],
        samples=config.roi_samples,
        positive_fraction=config.cls_positive_fraction,
        regression_weights=[config.lambda_reg * weight for weight in config.stage_weights[: config.stages]],
        score_thr=config.score_thr,
        nms_final=config.nms_final,
        max_detections=config.max_detections,
    )
    return DecoupledRCNN(Pyramid(body, channels), RPNHead(channels), heads, config)
