from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from drcnn.config import Config
from drcnn.detector import fused
from drcnn.detector.box_heads import TwoFC
from drcnn.detector.detector import DecoupledRCNN, build_detector
from drcnn.detector.fused import Weights, conv_norm_act, is_fused, linear_act, unchanged_weights
from drcnn.detector.norms import FrozenStatsBatchNorm2d

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
Layers = tuple[nn.Conv2d, FrozenStatsBatchNorm2d]


@pytest.fixture
def layers() -> Layers:
    torch.manual_seed(0)
    norm = FrozenStatsBatchNorm2d(8)
    for tensor in (norm.running_var, norm.weight.data):
        tensor.uniform_(0.5, 1.5)
    for tensor in (norm.running_mean, norm.bias.data):
        tensor.normal_()
    return nn.Conv2d(4, 8, 3, padding=1, bias=False), norm


def expected(layers: Layers, act: nn.Module | None, maps: Tensor, residual: Tensor | None) -> Tensor:
    conv, norm = layers
    result = nn.functional.batch_norm(conv(maps), norm.running_mean, norm.running_var, norm.weight, norm.bias)
    result = result if residual is None else result + residual
    return result if act is None else act(result)


@pytest.mark.parametrize("act", [None, nn.ReLU(), nn.ReLU6()], ids=["none", "relu", "relu6"])
@pytest.mark.parametrize("is_last", [True, False], ids=["channels_last", "contiguous"])
def test_one_operator_computes_what_the_layers_do(
    layers: Layers, act: nn.Module | None, is_last: bool
) -> None:
    maps = torch.randn(2, 4, 11, 13)
    maps = maps.contiguous(memory_format=torch.channels_last) if is_last else maps
    with torch.no_grad():
        assert is_fused(*layers, act, maps)
        torch.testing.assert_close(conv_norm_act(*layers, act, maps), expected(layers, act, maps, None))
        if not isinstance(act, nn.ReLU6):
            residual = torch.randn(2, 8, 11, 13)
            right = expected(layers, act, maps, residual)
            torch.testing.assert_close(conv_norm_act(*layers, act, maps, residual.clone()), right)


def test_weights_that_an_optimizer_changed_are_used(layers: Layers) -> None:
    conv, norm = layers
    optimizer = torch.optim.SGD([*conv.parameters(), *norm.parameters()], lr=1e-4, fused=True)
    maps = torch.randn(1, 4, 9, 9)
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(conv_norm_act(*layers, None, maps), expected(layers, None, maps, None))
        conv_norm_act(*layers, None, maps).square().sum().backward()
        optimizer.step()


def test_what_is_learned_has_gradients(layers: Layers) -> None:
    conv, norm = layers
    maps = torch.randn(1, 4, 9, 9)
    assert not is_fused(conv, norm, nn.ReLU(), maps)
    conv_norm_act(conv, norm, nn.ReLU(), maps).sum().backward()
    assert conv.weight.grad is not None
    with torch.no_grad():
        assert is_fused(conv, norm, nn.ReLU(), maps)


def test_unchanged_weights_are_made_once_and_give_the_same(
    layers: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps, weights, made = torch.randn(1, 4, 9, 9), Weights(), []
    original = fused._made
    monkeypatch.setattr(fused, "_made", lambda *arguments: (made.append(None), original(*arguments))[1])
    with torch.no_grad():
        right = conv_norm_act(*layers, None, maps)
        for _ in range(2):
            with unchanged_weights(weights):
                assert torch.equal(conv_norm_act(*layers, None, maps), right)
                with torch.autocast("cpu", torch.bfloat16):
                    conv_norm_act(*layers, None, maps)
        assert len(made) == 3  # without; in each of two types
        layers[0].weight += 1
        torch.testing.assert_close(conv_norm_act(*layers, None, maps), expected(layers, None, maps, None))


@pytest.mark.parametrize("rows", [0, 5])
def test_a_linear_layer_with_its_relu(rows: int) -> None:
    torch.manual_seed(0)
    linear, entered = nn.Linear(12, 7), torch.randn(rows, 12)
    right = nn.functional.linear(entered, linear.weight, linear.bias).relu()
    with torch.no_grad():
        torch.testing.assert_close(linear_act(linear, nn.ReLU(), entered), right)
        with torch.autocast("cpu", torch.bfloat16):
            low = linear_act(linear, nn.ReLU(), entered)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), right, atol=0.02, rtol=0.02)
    linear_act(linear, nn.ReLU(), entered).sum().backward()
    assert linear.weight.grad is not None


def test_two_linear_layers_are_those_of_the_layers() -> None:
    trunk, pooled = TwoFC(3, 16), torch.randn(4, 3, 7, 7)
    right = trunk(pooled)
    assert right.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(trunk(pooled), right)


@pytest.fixture(params=["resnet18", "resnet50", "mobilenet_v2"])
def detector(request: pytest.FixtureRequest) -> DecoupledRCNN:
    torch.manual_seed(0)
    changes = {"detector.backbone": request.param, "detector.variant": "fpn", "detector.fc_width": 64}
    built = build_detector(Config().with_changes(changes).detector, 3, pretrained=False).eval()
    for norm in built.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.5, 1.5)
    return built


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pyramid_and_rpn_are_those_of_the_layers(
    detector: DecoupledRCNN, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.randn(2, 3, 96, 128).contiguous(memory_format=torch.channels_last)

    def maps() -> list[Tensor]:
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            features = detector.pyramid(images)
            return [*features, *detector.rpn(features).logits]

    together, calls = maps(), count_calls(monkeypatch)
    maps()
    assert calls
    monkeypatch.setattr(fused, "is_fused", lambda *arguments: False)
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    for one, other in zip(together, maps(), strict=True):
        assert one.dtype == other.dtype
        assert (one - other).abs().max() <= tolerance * other.abs().max()


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Of the fused operator."""
    calls: list[None] = []
    original: Callable[..., Tensor] = fused._fused
    monkeypatch.setattr(fused, "_fused", lambda *arguments: (calls.append(None), original(*arguments))[1])
    return calls
