"""The detector: pyramid, RPN, a list of proposals for each branch, heads, detections (Fig. 3).

>>> from drcnn.config import Config
>>> config = Config().with_changes({"detector.weights": "none", "detector.norm": "batch",
...     "detector.frozen_stages": 0, "detector.backbone": "resnet18"})
>>> detector = build_detector(config.detector, classes=20)
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from drcnn.batch import Batch
from drcnn.config import DetectorConfig
from drcnn.detector.backbones import Pyramid, build_body
from drcnn.detector.compose import build_heads, build_rpn
from drcnn.detector.postprocess import Detections
from drcnn.detector.roi_heads import RoIHeads
from drcnn.detector.rpn import RPNHead, anchors_for, propose, rpn_losses
from drcnn.detector.weights import load_backbone

__all__ = ["DecoupledRCNN", "build_detector", "move_detector"]

IMAGE_MEAN = (123.675, 116.28, 103.53)
IMAGE_STD = (58.395, 57.12, 57.375)


class DecoupledRCNN(nn.Module):
    """The whole detector. ``forward`` returns losses, ``detect`` returns detections.

    Args:
        pyramid: backbone and FPN.
        rpn: head shared by the five levels.
        heads: of any variant (``drcnn.detector.compose``).
        config: thresholds and counts of the proposals.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, pyramid: Pyramid, rpn: RPNHead, heads: RoIHeads, config: DetectorConfig) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.rpn = rpn
        self.heads = heads
        self.config = config
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGE_STD).view(3, 1, 1), persistent=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted losses; their sum is what training minimises (Eq. 8 plus the RPN's)."""
        features = self.features(batch)
        anchors = anchors_for(features, self.config.anchor_scale)
        with torch.no_grad():  # proposals are constants; the loss computes what it needs itself
            output = self.rpn(features)
        # Older versions of torch keep the casts of weights made there, which have no gradient.
        torch.clear_autocast_cache()
        with record_function("RPN loss"):
            losses = rpn_losses(
                partial(self.rpn.at, features),
                anchors,
                batch,
                samples=self.config.rpn_samples,
                beta=self.rpn.beta,
                ignore_crossing=self.rpn.ignore_crossing,
            )
        with record_function("proposals"):
            proposals_cls, proposals_reg = propose(
                output,
                anchors,
                batch.sizes,
                nms_thresholds=(self.config.nms_cls, self.config.nms_reg),
                pre_nms=self.config.rpn_pre_nms_train,
                post_nms=self.config.rpn_post_nms_train,
            )
        with record_function("heads"):
            losses |= self.heads.losses(features[:4], proposals_cls, proposals_reg, batch)
        return losses

    @torch.no_grad()
    def detect(self, batch: Batch) -> Detections:
        """Return the detections, in pixels of the batch's images."""
        features = self.features(batch)
        output = self.rpn(features)
        with record_function("proposals"):
            (proposals,) = propose(
                output,
                anchors_for(features, self.config.anchor_scale),
                batch.sizes,
                nms_thresholds=(self.config.nms_test,),
                pre_nms=self.config.rpn_pre_nms_test,
                post_nms=self.config.rpn_post_nms_test,
            )
        with record_function("heads"):
            return self.heads.detect(features[:4], proposals, batch.sizes)

    def features(self, batch: Batch) -> list[Tensor]:
        """Return the five pyramid maps of the normalised images."""
        images = (batch.images.float() - self.mean) / self.std
        # The padding is zero after normalisation, as in the official code: the mean colour, not black.
        height = torch.arange(images.shape[2], device=images.device)[:, None] < batch.sizes[:, :1, None]
        width = torch.arange(images.shape[3], device=images.device) < batch.sizes[:, 1:, None]
        images = images * (height & width)[:, None]
        if self._is_faster_channels_last():
            images = images.contiguous(memory_format=torch.channels_last)
        features: list[Tensor] = self.pyramid(images)
        return features

    def _is_faster_channels_last(self) -> bool:
        """Always on GPUs. On CPUs the forward pass gains a quarter, group norm loses.

        In training, with frozen statistics, a step of MobileNetV2 gains a fifth, and one of a ResNet gains
        an eighth in bf16; in float32 it loses a little.
        """
        if self.mean.device.type != "cpu":
            return True
        if torch.is_grad_enabled():
            gains = self.config.backbone == "mobilenet_v2" or torch.is_autocast_enabled("cpu")
            return gains and self.config.norm == "frozen"
        return self.config.norm != "group"


def build_detector(config: DetectorConfig, classes: int, *, pretrained: bool = True) -> DecoupledRCNN:
    """Compose the detector that ``config`` describes; random parts draw from torch's global generator.

    Args:
        config: architecture and thresholds.
        classes: K, without the background.
        pretrained: load ``config.weights``; not needed where a checkpoint is loaded afterwards.

    Raises:
        ConfigError: the pretrained weights are not available or do not fit.
    """
    body = build_body(config.backbone, width=config.backbone_width, norm=config.norm)
    if pretrained:
        load_backbone(body, config.backbone, config.weights, config.backbone_width)
    body.freeze(config.frozen_stages)
    pyramid = Pyramid(body, config.fpn_channels)
    return DecoupledRCNN(pyramid, build_rpn(config), build_heads(config, classes), config)


def move_detector(detector: DecoupledRCNN, device: torch.device | str) -> DecoupledRCNN:
    """Move the detector to ``device`` in place, in the memory format that is fastest there; return it."""
    detector.to(device)
    if torch.device(device).type != "cpu":
        # Tensor cores prefer channels last; on a CPU it slows group norm and wide convolutions down.
        detector.to(memory_format=torch.channels_last)
    return detector
