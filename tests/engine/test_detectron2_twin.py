"""Our ``fpn`` against detectron2's with the same weights: the same detections and losses. Where installed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from drcnn.batch import Batch
from drcnn.config import Config, ConfigError
from drcnn.detector.detector import DecoupledRCNN, build_detector
from drcnn.engine.bench_agreement import share_found
from drcnn.engine.bench_steps import of_ours
from drcnn.engine.detectron2_twin import detectron2_twin, has_detectron2, of_detectron2, renamed

needs_detectron2 = pytest.mark.skipif(not has_detectron2(), reason="detectron2 is not installed")

SMALL = {
    "detector.variant": "fpn",
    "detector.backbone": "resnet18",
    "detector.fc_width": 64,
    # All anchors and proposals: the samples that both draw at random are then the same.
    "detector.rpn_samples": 100_000,
    "detector.roi_samples": 4_000,
    "detector.rpn_post_nms_train": 150,
    "detector.rpn_post_nms_test": 80,
}


@pytest.fixture(scope="module")
def ours() -> DecoupledRCNN:
    torch.manual_seed(3)
    detector = build_detector(Config().with_changes(SMALL).detector, 3, pretrained=False)
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    # The official start predicts next to nothing; the comparison wants confident classes and moved boxes.
    stage = detector.heads.stage(1)
    assert stage.classifier is not None
    for layer, scale in (
        (detector.rpn.objectness, 3.0),
        (detector.rpn.deltas, 0.5),
        (stage.classifier.predictor, 10.0),
        (stage.regressor.predictor, 100.0),
    ):
        layer.weight.data.mul_(scale)
    return detector


@pytest.fixture(scope="module")
def batch() -> Batch:
    torch.manual_seed(4)
    return Batch(
        images=torch.randint(0, 255, (2, 3, 192, 256), dtype=torch.uint8),
        sizes=torch.tensor([[192.0, 256.0]] * 2),
        scales=torch.ones(2, 2),
        rows=torch.arange(2),
        keys=torch.arange(2),
        boxes=torch.tensor([[[12.0, 20, 50, 60], [100, 30, 190, 100]], [[30, 40, 120, 120], [0, 0, 0, 0]]]),
        labels=torch.tensor([[0, 1], [2, -1]]),
    )


@needs_detectron2
def test_every_tensor_of_detectron2_comes_from_ours(ours: DecoupledRCNN) -> None:
    state = {renamed(name): value for name, value in ours.state_dict().items()}
    expected = detectron2_twin(ours).state_dict()
    # Its anchors lie in its state, ours do not.
    for name, value in expected.items():
        assert torch.equal(value, state[name]), name
    assert {name.rpartition(".")[2] for name in state.keys() - expected.keys()} == {"num_batches_tracked"}


@needs_detectron2
def test_detections_agree(ours: DecoupledRCNN, batch: Batch) -> None:
    runner = of_detectron2(detectron2_twin(ours), batch)
    found, expected = of_ours(ours, batch).found(), runner.found()
    assert len(found.scores) > 40
    # Not all of them: ours keeps boxes that are clipped to nothing, which take part in the NMS.
    assert share_found(found, expected) > 0.98


@needs_detectron2
def test_losses_agree(ours: DecoupledRCNN, batch: Batch) -> None:
    losses = ours.train()(batch)
    expected = of_detectron2(detectron2_twin(ours).train(), batch).losses()
    assert set(expected) == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
    # It divides the RPN's losses by the samples that there might be, we by those there are.
    divisor = losses["loss_rpn_cls"] / expected["loss_rpn_cls"]
    pairs = (
        (losses["loss_rpn_reg"], divisor * expected["loss_rpn_loc"]),
        (losses["loss_cls"], expected["loss_cls"]),
        (losses["loss_reg_1"], expected["loss_box_reg"]),
    )
    for mine, other in pairs:
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)


def test_what_detectron2_lacks_is_refused() -> None:
    config = Config().with_changes({**SMALL, "detector.norm": "group"})
    with pytest.raises(ConfigError, match=r"norm=frozen.*got fpn, group, resnet18"):
        detectron2_twin(build_detector(config.detector, 3, pretrained=False))
