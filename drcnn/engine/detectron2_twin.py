"""detectron2's R50-FPN with the weights and settings of our ``fpn``, to compare speed and results.

detectron2 is no dependency: it is compared where it is installed. It pools, samples and judges as we do;
what differs is the random choice of samples, and that boxes clipped to nothing are dropped before NMS.
"""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

import torch
from torch import Tensor, nn

from drcnn.batch import Batch
from drcnn.config import ConfigError, DetectorConfig
from drcnn.detector.box_heads import STAGE_STDS
from drcnn.detector.detector import IMAGE_MEAN, IMAGE_STD, DecoupledRCNN
from drcnn.detector.postprocess import Detections
from drcnn.detector.rpn import STRIDES
from drcnn.engine.bench_steps import Runner

__all__ = ["detectron2_twin", "has_detectron2", "of_detectron2"]

DEPTHS = {"resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101}
# Parts of names, ours and theirs; the first that a name begins with counts.
HEADS = {
    "rpn.conv.": "proposal_generator.rpn_head.conv.",
    "rpn.objectness.": "proposal_generator.rpn_head.objectness_logits.",
    "rpn.deltas.": "proposal_generator.rpn_head.anchor_deltas.",
    "heads.stages.0.stem.1.": "roi_heads.box_head.fc1.",
    "heads.stages.0.stem.3.": "roi_heads.box_head.fc2.",
    "heads.stages.0.classifier.predictor.": "roi_heads.box_predictor.cls_score.",
    "heads.stages.0.regressor.predictor.": "roi_heads.box_predictor.bbox_pred.",
}
BODY, INNER, OUTER = "pyramid.body.", "pyramid.fpn.inner_blocks.", "pyramid.fpn.layer_blocks."


def has_detectron2() -> bool:
    """Whether detectron2 is installed; it is not imported."""
    return importlib.util.find_spec("detectron2") is not None


def detectron2_twin(detector: DecoupledRCNN) -> nn.Module:
    """Build detectron2's detector with the weights of ours.

    Args:
        detector: a ``fpn`` with a ResNet and frozen statistics.

    Raises:
        ConfigError: detectron2 has no such detector.
    """
    config = detector.config
    if config.variant != "fpn" or config.norm != "frozen" or config.backbone not in DEPTHS:
        raise ConfigError(
            "detectron2's Faster R-CNN compares with detector.variant=fpn, norm=frozen and a backbone of "
            f"{', '.join(DEPTHS)}; got {config.variant}, {config.norm}, {config.backbone}"
        )
    from detectron2.modeling import build_model

    classifier = detector.heads.stage(1).classifier
    assert classifier is not None
    twin: nn.Module = build_model(_settings(config, classifier.predictor.out_features - 1))
    state = {renamed(name): value for name, value in detector.state_dict().items()}
    expected = twin.state_dict()
    twin.load_state_dict({name: value for name, value in state.items() if name in expected})
    return twin


def of_detectron2(model: nn.Module, batch: Batch) -> Runner:
    """Return detectron2's detector on ``batch``."""
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.events import EventStorage

    inputs: list[dict[str, Any]] = []
    for image, boxes, labels in zip(batch.images, batch.boxes, batch.labels, strict=True):
        truth = Instances(tuple(image.shape[1:]))
        truth.gt_boxes, truth.gt_classes = Boxes(boxes[labels >= 0]), labels[labels >= 0]
        inputs.append({"image": image, "instances": truth})

    def losses() -> dict[str, Tensor]:
        with EventStorage():  # it counts its samples there
            return dict(model(inputs))

    return Runner(model, losses, lambda: model(inputs), _detections)


def renamed(name: str) -> str:
    """Return detectron2's name of a tensor of our ``fpn``.

    >>> renamed("pyramid.body.layer2.0.bn1.bias")
    'backbone.bottom_up.res3.0.conv1.norm.bias'
    >>> renamed("pyramid.body.layer2.0.downsample.1.bias")
    'backbone.bottom_up.res3.0.shortcut.norm.bias'
    >>> renamed("pyramid.fpn.inner_blocks.0.0.weight")
    'backbone.fpn_lateral2.weight'
    """
    for ours, theirs in HEADS.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    for ours, theirs in ((INNER, "backbone.fpn_lateral"), (OUTER, "backbone.fpn_output")):
        if name.startswith(ours):
            level, _, kind = name.removeprefix(ours).split(".")
            return f"{theirs}{int(level) + 2}.{kind}"
    if not name.startswith(BODY):
        return name
    first, *rest = name.removeprefix(BODY).split(".")
    if not first.startswith("layer"):
        return ".".join(["backbone.bottom_up.stem", *_layer(first), *rest])
    block, *inner = rest
    if inner[0] == "downsample":
        inner = ["shortcut", *(["norm"] if inner[1] == "1" else []), *inner[2:]]
    else:
        inner = [*_layer(inner[0]), *inner[1:]]
    return ".".join([f"backbone.bottom_up.res{int(first[-1]) + 1}", block, *inner])


def _layer(name: str) -> list[str]:
    """``bn2`` is the norm within ``conv2``."""
    return [f"conv{name[2:]}", "norm"] if name.startswith("bn") else [name]


def _settings(config: DetectorConfig, classes: int) -> Any:
    from detectron2.config import get_cfg

    settings = get_cfg()
    model = settings.MODEL
    # The images are RGB.
    model.DEVICE, model.PIXEL_MEAN, model.PIXEL_STD = "cpu", list(IMAGE_MEAN), list(IMAGE_STD)
    model.BACKBONE.NAME = "build_resnet_fpn_backbone"
    # It counts the stem as a stage of its own.
    model.BACKBONE.FREEZE_AT = config.frozen_stages + 1 if config.frozen_stages else 0
    resnets = model.RESNETS
    resnets.DEPTH, resnets.STRIDE_IN_1X1 = DEPTHS[config.backbone], False
    resnets.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    resnets.RES2_OUT_CHANNELS = 64 if DEPTHS[config.backbone] < 50 else 256
    model.FPN.IN_FEATURES, model.FPN.OUT_CHANNELS = resnets.OUT_FEATURES, config.fpn_channels
    model.ANCHOR_GENERATOR.SIZES = [[config.anchor_scale * stride] for stride in STRIDES]
    rpn, heads, box = model.RPN, model.ROI_HEADS, model.ROI_BOX_HEAD
    rpn.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    rpn.PRE_NMS_TOPK_TRAIN, rpn.PRE_NMS_TOPK_TEST = config.rpn_pre_nms_train, config.rpn_pre_nms_test
    rpn.POST_NMS_TOPK_TRAIN, rpn.POST_NMS_TOPK_TEST = config.rpn_post_nms_train, config.rpn_post_nms_test
    rpn.NMS_THRESH, rpn.BATCH_SIZE_PER_IMAGE = config.nms_test, config.rpn_samples
    heads.NAME, heads.IN_FEATURES, heads.NUM_CLASSES = "StandardROIHeads", ["p2", "p3", "p4", "p5"], classes
    heads.BATCH_SIZE_PER_IMAGE = config.roi_samples
    heads.POSITIVE_FRACTION = config.cls_positive_fraction
    heads.SCORE_THRESH_TEST, heads.NMS_THRESH_TEST = config.score_thr, config.nms_final
    box.NAME, box.NUM_FC, box.FC_DIM, box.POOLER_RESOLUTION = "FastRCNNConvFCHead", 2, config.fc_width, 7
    box.BBOX_REG_WEIGHTS = tuple(1 / std for std in STAGE_STDS[0])
    settings.TEST.DETECTIONS_PER_IMAGE = config.max_detections
    logging.getLogger("detectron2").setLevel(logging.WARNING)
    return settings


def _detections(found: list[dict[str, Any]]) -> Detections:
    each = [result["instances"] for result in found]
    counts = torch.tensor([len(instances) for instances in each])
    return Detections(
        torch.arange(len(each)).repeat_interleave(counts),
        torch.cat([instances.pred_boxes.tensor for instances in each]),
        torch.cat([instances.pred_classes for instances in each]),
        torch.cat([instances.scores for instances in each]),
    )
