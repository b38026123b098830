"""Training with channels-last maps against contiguous ones: the same losses and gradients, in bf16 too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from drcnn.config import Config
from drcnn.detector.detector import DecoupledRCNN, build_detector

from .test_rpn import make_batch

OBJECTS = [[[8.0, 8.0, 40.0, 56.0], [60.0, 20.0, 100.0, 70.0]], [[30.0, 10.0, 90.0, 80.0]]]
MOBILENET = {"backbone": "mobilenet_v2", "backbone_width": 0.25, "weights": "digits", "frozen_stages": 1}
RESNET = {"backbone": "resnet18", "frozen_stages": 1}
# Every anchor and proposal is a sample, and no proposal is suppressed: otherwise a difference in the last
# digit of a logit would change which samples there are.
ALL_SAMPLES = {
    "norm": "frozen",
    "fpn_channels": 16,
    "fc_width": 32,
    "anchor_scale": 4.0,
    "rpn_samples": 100_000,
    "rpn_pre_nms_train": 10_000,
    "rpn_post_nms_train": 50_000,
    "nms_cls": 1.0,
    "nms_reg": 1.0,
    "roi_samples": 20_000,
    "cls_positive_fraction": 1.0,
}


def trained(
    backbone: dict[str, object], amp: bool, is_last: bool, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Tensor], Tensor]:
    """The losses of a step and all its gradients, one after the other."""
    monkeypatch.setattr(DecoupledRCNN, "_is_faster_channels_last", lambda _: is_last)
    changes = {f"detector.{key}": value for key, value in {**ALL_SAMPLES, **backbone}.items()}
    torch.manual_seed(1)
    config = Config().with_changes(changes).detector
    detector = build_detector(config, 3, pretrained=config.weights == "digits").train()
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        losses = detector(make_batch(OBJECTS, 96, 128))
    torch.stack(list(losses.values())).sum().backward()
    gradients = [weight.grad.flatten() for weight in detector.parameters() if weight.grad is not None]
    return losses, torch.cat(gradients)


@pytest.mark.parametrize("backbone", [MOBILENET, RESNET], ids=["mobilenet_v2", "resnet18"])
@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bf16"])
def test_the_memory_format_changes_neither_losses_nor_gradients(
    backbone: dict[str, object], amp: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, gradient = trained(backbone, amp, False, monkeypatch)
    losses_last, gradient_last = trained(backbone, amp, True, monkeypatch)
    # bf16 has 8 bits: a rounding is up to 0.4 %, and every layer adds its own.
    tolerance = {"rtol": 0.02, "atol": 0.02} if amp else {"rtol": 1e-4, "atol": 1e-6}
    for name, loss in losses.items():
        torch.testing.assert_close(losses_last[name], loss, **tolerance)
    assert (gradient_last - gradient).norm() <= (0.1 if amp else 1e-3) * gradient.norm()


@pytest.mark.parametrize("backbone", [MOBILENET, RESNET], ids=["mobilenet_v2", "resnet18"])
def test_bf16_is_channels_last_and_close_to_float32(
    backbone: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, gradient = trained(backbone, False, False, monkeypatch)
    losses, gradient_low = trained(backbone, True, True, monkeypatch)
    for name, loss in exact.items():
        torch.testing.assert_close(losses[name], loss, rtol=0.02, atol=0.02)
    assert (gradient_low - gradient).norm() <= 0.1 * gradient.norm()


def test_which_training_on_a_cpu_is_channels_last() -> None:
    chosen = {}
    for name, backbone in (("mobilenet", MOBILENET), ("resnet", RESNET)):
        for norm in ("frozen", "group"):
            changes = {**ALL_SAMPLES, **backbone, "weights": "imagenet", "norm": norm}
            config = Config().with_changes({f"detector.{key}": value for key, value in changes.items()})
            detector = build_detector(config.detector, 3, pretrained=False)
            for amp in (False, True):
                with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                    chosen[name, norm, amp] = detector._is_faster_channels_last()
    assert {key for key, is_last in chosen.items() if is_last} == {
        ("mobilenet", "frozen", False),
        ("mobilenet", "frozen", True),
        ("resnet", "frozen", True),
    }
