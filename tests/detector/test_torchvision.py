"""Our ``fpn`` against torchvision's Faster R-CNN with the same weights: same losses, same detections.

Each difference of convention is bridged here, by setting one side to the other's:

- anchors: torchvision rounds them to whole pixels; here it gets exact ones (and sides divisible by 64, since
  its strides are those of the map, ours those of the level);
- RoIAlign: torchvision's samples 2x2 points a bin, unaligned; here it gets an aligned, adaptive one;
- regression losses: torchvision's are smooth L1 with beta 1/9; here ours are too;
- sampling: both draw at random; here the limits are so high that both take every candidate;
- boxes clipped to nothing: torchvision drops them, the official code does not; here they are left out;
- a ground-truth box always gets an anchor in torchvision, from IoU 0.3 in ours: all boxes here reach that.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import box_iou, roi_align

from drcnn.batch import Batch
from drcnn.config import Config
from drcnn.detector.coupled_heads import CoupledHeads
from drcnn.detector.detector import DecoupledRCNN, build_detector
from drcnn.detector.rpn import anchors_for
from drcnn.engine.torchvision_twin import torchvision_twin

from .test_rpn import make_batch

HEIGHT, WIDTH, CLASSES = 192, 256, 3
BOXES = [
    [[12.0, 20.0, 50.0, 60.0], [100.0, 30.0, 190.0, 100.0], [60.0, 90.0, 90.0, 155.0]],
    [[30.0, 40.0, 120.0, 120.0]],
]


class ExactAnchors(AnchorGenerator):
    """torchvision's anchors before they are rounded."""

    def generate_anchors(
        self,
        scales: tuple[float, ...],
        aspect_ratios: tuple[float, ...],
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> Tensor:
        ratios = torch.tensor(aspect_ratios).sqrt()
        half = torch.stack((scales[0] / ratios, scales[0] * ratios), dim=1) / 2
        return torch.cat((-half, half), dim=1)


class AlignedPooler(nn.Module):
    """A RoI at a time, from the level of its size."""

    def forward(
        self, features: dict[str, Tensor], boxes: list[Tensor], shapes: list[tuple[int, int]]
    ) -> Tensor:
        pooled = []
        for image, of_image in enumerate(boxes):
            for box in of_image:
                side = ((box[2] - box[0]) * (box[3] - box[1])).sqrt()
                level = int(torch.log2(side / 56 + 1e-6).floor().clamp(0, 3))
                roi = torch.cat((torch.tensor([float(image)]), box))[None]
                pooled.append(roi_align(features[str(level)], roi, 7, 0.25 / 2**level, 0, aligned=True))
        return torch.cat(pooled)


@pytest.fixture(scope="module")
def ours() -> DecoupledRCNN:
    torch.manual_seed(3)
    config = Config().with_changes(
        {
            "detector.variant": "fpn",
            "detector.backbone": "resnet18",
            "detector.fc_width": 64,
            "detector.rpn_samples": 100_000,
            "detector.roi_samples": 4_000,
            "detector.rpn_pre_nms_train": 120,
            "detector.rpn_pre_nms_test": 100,
            "detector.rpn_post_nms_train": 150,
            "detector.rpn_post_nms_test": 80,
            "detector.anchor_scale": 5.3,
        }
    )
    detector = build_detector(config.detector, CLASSES, pretrained=False)
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    # The official start predicts next to nothing; the comparison wants confident classes and moved boxes.
    stage = detector.heads.stage(1)
    for layer, scale in ((detector.rpn.objectness, 3), (detector.rpn.deltas, 0.5)):
        layer.weight.data.mul_(scale)
    stage.classifier.predictor.weight.data.mul_(10)
    stage.regressor.predictor.weight.data.mul_(100)
    detector.rpn.beta = 1 / 9
    assert isinstance(detector.heads, CoupledHeads)
    detector.heads.beta = 1 / 9
    return detector


@pytest.fixture(scope="module")
def theirs(ours: DecoupledRCNN) -> FasterRCNN:
    twin = torchvision_twin(ours, height=HEIGHT, width=WIDTH)
    stock = twin.rpn.anchor_generator
    twin.rpn.anchor_generator = ExactAnchors(stock.sizes, stock.aspect_ratios)
    twin.roi_heads.box_roi_pool = AlignedPooler()
    return twin


@pytest.fixture(scope="module")
def batch() -> Batch:
    torch.manual_seed(4)
    return make_batch(BOXES, HEIGHT, WIDTH)


def inputs_for_torchvision(batch: Batch) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    targets = [
        {"boxes": boxes[labels >= 0], "labels": labels[labels >= 0] + 1}
        for boxes, labels in zip(batch.boxes, batch.labels, strict=True)
    ]
    return [image.float() / 255 for image in batch.images], targets


def test_losses_agree(ours: DecoupledRCNN, theirs: FasterRCNN, batch: Batch) -> None:
    features = ours.pyramid(torch.zeros(1, 3, HEIGHT, WIDTH))
    anchors = torch.cat(anchors_for(features, ours.config.anchor_scale))
    assert all(box_iou(anchors, torch.tensor(boxes)).amax(0).min() >= 0.3 for boxes in BOXES)
    losses = ours.train()(batch)
    images, targets = inputs_for_torchvision(batch)
    expected = theirs.train()(images, targets)
    pairs = {
        "loss_rpn_cls": "loss_objectness",
        "loss_rpn_reg": "loss_rpn_box_reg",
        "loss_cls": "loss_classifier",
        "loss_reg_1": "loss_box_reg",
    }
    assert set(losses) == set(pairs)
    for mine, other in pairs.items():
        assert losses[mine] > 1e-4, mine
        torch.testing.assert_close(losses[mine], expected[other], rtol=1e-4, atol=0, msg=mine)


def test_gradients_agree(ours: DecoupledRCNN, theirs: FasterRCNN, batch: Batch) -> None:
    ours.zero_grad()
    theirs.zero_grad()
    sum(ours.train()(batch).values()).backward()
    images, targets = inputs_for_torchvision(batch)
    sum(theirs.train()(images, targets).values()).backward()
    for mine, other in (
        (ours.pyramid.body.layer2[0].conv1, theirs.backbone.body.layer2[0].conv1),
        (ours.pyramid.fpn.layer_blocks[0][0], theirs.backbone.fpn.layer_blocks[0][0]),
        (ours.rpn.deltas, theirs.rpn.head.bbox_pred),
        (ours.heads.stage(1).stem[1], theirs.roi_heads.box_head.fc6),
    ):
        difference = (mine.weight.grad - other.weight.grad).norm() / other.weight.grad.norm()
        assert difference < 1e-4


def test_detections_agree(ours: DecoupledRCNN, theirs: FasterRCNN, batch: Batch) -> None:
    found = ours.eval().detect(batch)
    with torch.no_grad():
        expected = theirs.eval()(inputs_for_torchvision(batch)[0])
    is_box = (found.boxes[:, 2:] - found.boxes[:, :2] >= 0.01).all(dim=1)
    for image, other in enumerate(expected):
        mine = (found.image == image) & is_box
        assert int(mine.sum()) == len(other["scores"]) > 20
        order = found.scores[mine].argsort(descending=True, stable=True)
        torch.testing.assert_close(found.scores[mine][order], other["scores"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.boxes[mine][order], other["boxes"], rtol=1e-4, atol=1e-2)
        assert torch.equal(found.labels[mine][order] + 1, other["labels"])
