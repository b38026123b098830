from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models
from torchvision.models.resnet import Bottleneck

from drcnn.config import Config, ConfigError, DetectorConfig
from drcnn.detector.backbones import build_body
from drcnn.detector.detector import build_detector, move_detector
from drcnn.detector.norms import FrozenStatsBatchNorm2d
from drcnn.detector.weights import load_backbone
from drcnn.variants import DETECTORS

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


BACKBONES = get_args(DetectorConfig.model_fields["backbone"].annotation)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_backbones_give_strides_4_to_32(name: str, norm: str) -> None:
    with torch.device("meta"):
        body = build_body(name, width=1.0, norm=norm).eval()
        maps = body(torch.zeros(1, 3, 64, 96))
    assert [tuple(m.shape[2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert [m.shape[1] for m in maps] == body.channels


def resnext101_32x4d() -> models.ResNet:
    """torchvision has the blocks but no such network by name."""
    return models.ResNet(Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=4)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("resnet34", models.resnet34),
        ("resnet50", models.resnet50),
        ("resnet101", models.resnet101),
        ("resnext101_32x4d", resnext101_32x4d),
        ("resnext101_64x4d", models.resnext101_64x4d),
    ],
)
def test_every_tensor_has_torchvisions_name_and_shape(name: str, make: Callable[[], models.ResNet]) -> None:
    with torch.device("meta"):
        ours, theirs = build_body(name, width=1.0, norm="frozen").state_dict(), make().state_dict()
    expected = {key: value.shape for key, value in theirs.items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in ours.items()} == expected


def test_imagenet_weights_that_torchvision_lacks_are_named() -> None:
    with torch.device("meta"):
        body = build_body("resnext101_32x4d", width=1.0, norm="frozen")
    with pytest.raises(
        ConfigError, match=r"torchvision offers none for resnext101_32x4d.*local file"
    ) as error:
        load_backbone(body, "resnext101_32x4d", "imagenet")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "make"),
    [("resnet18", models.resnet18), ("resnet34", models.resnet34), ("mobilenet_v2", models.mobilenet_v2)],
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
    # In double precision: folding the statistics into the weights changes the last digits.
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    network, body = network.double(), body.double()
    with torch.no_grad():
        last = body.train()(images)[-1]  # frozen statistics: training mode changes nothing
        if name.startswith("resnet"):
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


@pytest.mark.parametrize("variant", DETECTORS)
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
def test_odd_batches_train_every_parameter_finitely(variant: str, boxes: list[list[list[float]]]) -> None:
    torch.manual_seed(0)
    detector = build_detector(small(variant=variant, norm="group"), 3).train()
    losses = detector(make_batch(boxes, 64, 64))
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert torch.isfinite(total)
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    detector.eval().detect(make_batch([[]] * len(boxes), 64, 64))


@pytest.mark.parametrize("variant", DETECTORS)
def test_bf16_trains_every_parameter(variant: str) -> None:
    """Also those whose first use in a step is where nothing is learned: autocast keeps casts of weights."""
    torch.manual_seed(0)
    detector = build_detector(small(variant=variant, norm="group"), 3).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector(make_batch([[[8.0, 8.0, 24.0, 24.0]]] * 2, 64, 64))
        total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert [name for name, p in detector.named_parameters() if p.requires_grad and p.grad is None] == []


def test_batch_norm_trains_on_one_image_of_32_pixels() -> None:
    detector = build_detector(small(norm="batch"), 3).train()
    losses = detector(make_batch([[[4.0, 4.0, 24.0, 24.0]]], 32, 32))
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert torch.isfinite(total)


def test_weights_are_channels_last_except_on_a_cpu() -> None:
    last = {}
    for device in ("cpu", "meta"):
        detector = move_detector(build_detector(small(), 3), device)
        weight = detector.rpn.conv.weight
        assert weight.device.type == device
        last[device] = weight.is_contiguous(memory_format=torch.channels_last)
    assert last == {"cpu": False, "meta": True}


@pytest.mark.parametrize("variant", ["double_head", "double_head_cascade"])
def test_a_double_head_with_batch_norm_survives_a_batch_without_positives(variant: str) -> None:
    """Its norm then sees negatives only; everything keeps a gradient."""
    torch.manual_seed(0)
    detector = build_detector(small(variant=variant, norm="batch"), 3).train()
    before = {name: b.clone() for name, b in detector.heads.named_buffers() if "running" in name}
    assert before
    losses = detector(make_batch([[], []], 64, 64))
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in detector.parameters())
    after = dict(detector.heads.named_buffers())
    assert all(torch.isfinite(value).all() for value in after.values())
    assert not any(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("variant", DETECTORS)
def test_an_image_without_objects_trains_beside_others_and_alone(variant: str, norm: str) -> None:
    """As one whose objects are all difficult: all its anchors and RoIs are negatives."""
    torch.manual_seed(0)
    detector = build_detector(small(variant=variant, norm=norm), 3).train()
    for objects in ([[[8.0, 8.0, 40.0, 40.0]], []], [[], []]):
        losses = detector(make_batch(objects, 64, 64))
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        assert torch.isfinite(total)
        assert losses["loss_cls"] > 0
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in detector.parameters())


@pytest.mark.parametrize("variant", DETECTORS)
def test_the_sum_of_losses_has_the_expected_parts(variant: str) -> None:
    detector = build_detector(small(variant=variant), 3).train()
    losses = detector(make_batch([[[8.0, 8.0, 24.0, 24.0]]] * 2, 64, 64))
    stages = detector.config.stages
    classifiers = stages if variant in ("cascade_rcnn", "decoupled_cascade_cls") else 1
    assert set(losses) == {
        "loss_rpn_cls",
        "loss_rpn_reg",
        "loss_cls",
        *(f"loss_cls_{stage}" for stage in range(2, classifiers + 1)),
        *(f"loss_reg_{stage}" for stage in range(1, stages + 1)),
    }


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
