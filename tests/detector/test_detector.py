from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from drcnn.config import Config, ConfigError, DetectorConfig
from drcnn.detector.backbones import FrozenStatsBatchNorm2d, build_body
from drcnn.detector.detector import build_detector
from drcnn.detector.weights import load_backbone

from .test_rpn import make_batch

SMALL = {
    "detector.backbone": "mobilenet_v2",
    "detector.backbone_width": 0.25,
    "detector.weights": "none",
    "detector.norm": "batch",
    "detector.frozen_stages": 0,
    "detector.fpn_channels": 16,
    "detector.fc_width": 32,
    "detector.roi_samples": 16,
    "detector.anchor_scale": 4.0,
}


def small(**changes: object) -> DetectorConfig:
    return Config().with_changes({**SMALL, **{f"detector.{k}": v for k, v in changes.items()}}).detector


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet101", "mobilenet_v2"])
@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_backbones_give_strides_4_to_32(name: str, norm: str) -> None:
    body = build_body(name, width=1.0, norm=norm).eval()
    with torch.no_grad():
        maps = body(torch.zeros(1, 3, 64, 96))
    assert [tuple(m.shape[2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert [m.shape[1] for m in maps] == body.channels


@pytest.mark.parametrize(
    ("name", "make"), [("resnet18", models.resnet18), ("mobilenet_v2", models.mobilenet_v2)]
)
def test_torchvision_weights_load_and_give_torchvisions_features(
    name: str, make: type[torch.nn.Module], tmp_path: Path
) -> None:
    network = make().eval()
    for module in network.modules():  # fresh statistics are 0 and 1: a forgotten tensor would not show
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    body = build_body(name, width=1.0, norm="frozen")
    load_backbone(body, name, str(tmp_path / "weights.pth"))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        last = body.train()(images)[-1]  # frozen statistics: training mode changes nothing
        if name == "resnet18":
            expected = torch.nn.Sequential(*list(network.children())[:-2])(images)
        else:
            expected = network.features(images)
    torch.testing.assert_close(last, expected)


def test_weights_that_do_not_fit_name_their_tensors(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    state = build_body("resnet18", width=1.0, norm="batch").state_dict()
    del state["layer1.0.conv1.weight"]
    state["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    state["head.weight"] = torch.zeros(1)
    save_file(state, path)
    with pytest.raises(ConfigError) as error:
        load_backbone(build_body("resnet18", width=1.0, norm="frozen"), "resnet18", str(path))
    message = str(error.value)
    assert "missing: layer1.0.conv1.weight" in message
    assert "unknown: head.weight" in message
    assert "conv1.weight [64, 3, 3, 3] instead of [64, 3, 7, 7]" in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"", b"not tensors at all", b"\x80\x04\x8c\x05posix\x8c\x06system\x93."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_unreadable_or_unsafe_weights_are_refused_in_one_line(
    tmp_path: Path, content: bytes, suffix: str
) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"detector\.weights") as error:
        load_backbone(build_body("resnet18", width=1.0, norm="frozen"), "resnet18", str(path))
    assert "\n" not in str(error.value)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_backbone(
            build_body("resnet18", width=1.0, norm="frozen"), "resnet18", str(tmp_path / "nothing.pth")
        )


def test_freezing_keeps_stages_out_of_training() -> None:
    detector = build_detector(small(norm="frozen", weights="imagenet", frozen_stages=2), 3, pretrained=False)
    frozen = {name for name, p in detector.pyramid.body.named_parameters() if not p.requires_grad}
    assert {int(name.split(".")[1]) for name in frozen} == set(range(7))
    trained = [
        m for m in detector.modules() if isinstance(m, FrozenStatsBatchNorm2d) and m.weight.requires_grad
    ]
    assert trained  # scale and bias of the later stages are trained, their statistics are not
    before = {name: buffer.clone() for name, buffer in detector.named_buffers()}
    losses = detector.train()(make_batch([[[8.0, 8.0, 24.0, 24.0]]] * 2, 64, 64))
    sum(losses.values()).backward()
    assert all(torch.equal(before[name], buffer) for name, buffer in detector.named_buffers())
    assert all(p.grad is None for name, p in detector.pyramid.body.named_parameters() if name in frozen)


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize(
    "boxes",
    [
        [[], []],
        [[[8.0, 8.0, 24.0, 24.0]], []],
        [[[8.0, 8.0, 9.0, 9.0]]],  # one pixel
        [[[2.0 * i, 2.0 * i, 2.0 * i + 12, 2.0 * i + 12] for i in range(24)]],  # more than RoI samples
    ],
    ids=["no objects", "one empty image", "one pixel, batch of 1", "more boxes than samples"],
)
def test_odd_batches_train_every_parameter_finitely(stages: int, boxes: list[list[list[float]]]) -> None:
    torch.manual_seed(0)
    detector = build_detector(small(stages=stages, norm="group"), 3).train()
    losses = detector(make_batch(boxes, 64, 64))
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert torch.isfinite(total)
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    detector.eval().detect(make_batch([[]] * len(boxes), 64, 64))


def test_images_are_normalised_and_their_padding_is_neutral() -> None:
    detector = build_detector(small(), 3).eval()
    seen = []
    detector.pyramid.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    batch = make_batch([[]], 64, 64)
    batch.sizes[0] = torch.tensor([40.0, 64.0])
    detector.detect(batch)
    assert (seen[0][:, :, 40:] == 0).all()
    pixel = batch.images[0, :, 3, 5].float()
    expected = (pixel - torch.tensor([123.675, 116.28, 103.53])) / torch.tensor([58.395, 57.12, 57.375])
    torch.testing.assert_close(seen[0][0, :, 3, 5], expected)
