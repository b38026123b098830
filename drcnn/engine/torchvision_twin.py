"""torchvision's Faster R-CNN with the weights and settings of our ``fpn``, to compare speed and results.

Remaining differences: its anchors are rounded to whole pixels; its RoIAlign takes 2x2 samples per bin, half
a pixel shifted; its regression losses are smooth L1 with beta 1/9; its background is class 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

from drcnn.config import ConfigError, DetectorConfig
from drcnn.detector.detector import DecoupledRCNN
from drcnn.detector.pooling import POOLED_SIZE
from drcnn.detector.rpn import STRIDES

__all__ = ["from_torchvision", "torchvision_twin"]

NAMES = {
    "pyramid.": "backbone.",
    "rpn.conv.": "rpn.head.conv.0.0.",
    "rpn.objectness.": "rpn.head.cls_logits.",
    "rpn.deltas.": "rpn.head.bbox_pred.",
    "heads.stages.0.stem.1.": "roi_heads.box_head.fc6.",
    "heads.stages.0.stem.3.": "roi_heads.box_head.fc7.",
    "heads.stages.0.classifier.predictor.": "roi_heads.box_predictor.cls_score.",
    "heads.stages.0.regressor.predictor.": "roi_heads.box_predictor.bbox_pred.",
}


def torchvision_twin(detector: DecoupledRCNN, *, height: int, width: int) -> FasterRCNN:
    """Build torchvision's detector for images of one size, which it then does not resize.

    Args:
        detector: a ``fpn`` with a ResNet, frozen statistics and 256 pyramid channels.
        height: of the images in pixels; ``width`` likewise.

    Raises:
        ConfigError: torchvision has no such detector.
    """
    config = detector.config
    if config.variant != "fpn" or config.norm != "frozen" or config.fpn_channels != 256:
        raise ConfigError(
            "torchvision's Faster R-CNN compares with detector.variant=fpn, norm=frozen, fpn_channels=256; "
            f"got {config.variant}, {config.norm}, {config.fpn_channels}"
        )
    theirs = _build(config, _classes(detector), height, width)
    state = {_renamed(name): value for name, value in detector.state_dict().items()}
    _background_first(state)
    expected = theirs.state_dict()
    theirs.load_state_dict({name: value for name, value in state.items() if name in expected})
    return theirs


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of torchvision's Faster R-CNN by the names of our ``fpn``.

    The two predictors stay as they are there: of its classes, with the background first.

    Args:
        state: of torchvision's detector.
    """
    names = {theirs: ours for ours, theirs in NAMES.items()}
    ours = {}
    for name, tensor in state.items():
        prefix = next((theirs for theirs in names if name.startswith(theirs)), None)
        if prefix is not None:
            ours[names[prefix] + name.removeprefix(prefix)] = tensor
    return ours


def _build(config: DetectorConfig, classes: int, height: int, width: int) -> FasterRCNN:
    # torchvision counts the trained parts of stem and four layers; we count frozen ones, stem and first layer
    # together.
    trainable = 4 - config.frozen_stages if config.frozen_stages else 5
    try:
        backbone = resnet_fpn_backbone(
            backbone_name=config.backbone, weights=None, trainable_layers=trainable
        )
    except (KeyError, ValueError):
        raise ConfigError(f"torchvision's Faster R-CNN has no backbone {config.backbone}") from None
    return FasterRCNN(
        backbone,
        num_classes=None,
        min_size=min(height, width),
        max_size=max(height, width),
        rpn_anchor_generator=AnchorGenerator(
            tuple((config.anchor_scale * stride,) for stride in STRIDES), ((0.5, 1.0, 2.0),) * len(STRIDES)
        ),
        rpn_pre_nms_top_n_train=config.rpn_pre_nms_train,
        rpn_pre_nms_top_n_test=config.rpn_pre_nms_test,
        rpn_post_nms_top_n_train=config.rpn_post_nms_train,
        rpn_post_nms_top_n_test=config.rpn_post_nms_test,
        rpn_nms_thresh=config.nms_test,
        rpn_batch_size_per_image=config.rpn_samples,
        box_head=TwoMLPHead(config.fpn_channels * POOLED_SIZE**2, config.fc_width),
        box_predictor=FastRCNNPredictor(config.fc_width, classes + 1),
        box_score_thresh=config.score_thr,
        box_nms_thresh=config.nms_final,
        box_detections_per_img=config.max_detections,
        box_batch_size_per_image=config.roi_samples,
        box_positive_fraction=config.cls_positive_fraction,
    )


def _classes(detector: DecoupledRCNN) -> int:
    classifier = detector.heads.stage(1).classifier
    assert classifier is not None
    return classifier.predictor.out_features - 1


def _renamed(name: str) -> str:
    for ours, theirs in NAMES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def _background_first(state: dict[str, Tensor]) -> None:
    """Move the background from the last class to the first; its box deltas are never used."""
    for kind in ("weight", "bias"):
        scores, boxes = (f"roi_heads.box_predictor.{part}.{kind}" for part in ("cls_score", "bbox_pred"))
        state[scores] = state[scores].roll(1, dims=0)
        state[boxes] = torch.cat((torch.zeros_like(state[boxes][:4]), state[boxes]))
