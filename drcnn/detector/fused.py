"""Convolution, frozen norm, sum and ReLU as one operator, at inference on a CPU; linear layer and ReLU too.

Around a convolution, its bias, the sum with a residual and the ReLU are passes over whole maps, each about as
long as a 1x1 convolution itself. oneDNN applies them to values that are still in registers. The compiler of
PyTorch uses the same operators (``torch.ops.mkldnn``); here they are called without it: no compilation, any
size of image.

The weights that such an operator takes (with the norm in them, in the type of the maps) are made at every
call, unless the caller knows that none changes::

    with unchanged_weights({}):
        for batch in loader:
            detector.detect(batch)

Everywhere else (training, GPUs, export, meta tensors) the layers run one after another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from drcnn.detector.norms import FrozenStatsBatchNorm2d, conv_norm, folded

__all__ = ["Weights", "conv_norm_act", "is_fused", "linear_act", "unchanged_weights"]

# Weight and bias of an operator, by its layer, the norm in them and their type.
Weights = dict[tuple[nn.Module, nn.Module | None, torch.dtype], tuple[Tensor, Tensor | None]]

_kept: ContextVar[Weights | None] = ContextVar("kept", default=None)

HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
# Names and numbers of oneDNN's activations.
ACTIVATIONS: dict[type[nn.Module] | None, tuple[str, list[float]]] = {
    None: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
}


@contextmanager
def unchanged_weights(weights: Weights) -> Iterator[None]:
    """Within, make the operators' weights once: no layer that runs may change.

    Args:
        weights: takes them; given again, they are used again. They are as large as the detector's own.
    """
    token = _kept.set(weights)
    try:
        yield
    finally:
        _kept.reset(token)


def conv_norm_act(
    conv: nn.Conv2d,
    norm: nn.Module | None,
    act: nn.Module | None,
    maps: Tensor,
    residual: Tensor | None = None,
) -> Tensor:
    """Return ``act(norm(conv(maps)) + residual)``, up to rounding.

    Args:
        conv: the convolution.
        norm: after it, if there is one.
        act: ReLU or ReLU6 after that, if there is one; in place.
        maps: [N, C, H, W].
        residual: of the result's shape, added before the activation; may be overwritten.
    """
    if is_fused(conv, norm, act, maps, residual):
        return _fused(conv, norm, act, maps, residual)
    result = conv(maps) if norm is None else conv_norm(conv, norm, maps)
    if residual is not None:
        result += residual
    activated: Tensor = result if act is None else act(result)
    return activated


def linear_act(linear: nn.Linear, act: nn.Module, rows: Tensor) -> Tensor:
    """Return ``act(linear(rows))``, up to rounding.

    Args:
        linear: the layer.
        act: ReLU after it; in place.
        rows: [R, in_features], any memory order.
    """
    if not is_fused(linear, None, act, rows) or len(rows) == 0:
        activated: Tensor = act(linear(rows))
        return activated
    dtype = _dtype(rows)
    weight, bias = _kept_or_made(linear, None, dtype)
    name, numbers = ACTIVATIONS[type(act)]
    result: Tensor = torch.ops.mkldnn._linear_pointwise(rows.to(dtype), weight, bias, name, numbers, "")
    return result


def is_fused(
    layer: nn.Conv2d | nn.Linear,
    norm: nn.Module | None,
    act: nn.Module | None,
    maps: Tensor,
    residual: Tensor | None = None,
) -> bool:
    """Whether one operator computes all of it here."""
    if (
        torch.is_grad_enabled()
        or maps.device.type != "cpu"
        or not HAS_ONEDNN
        or torch.compiler.is_compiling()
    ):
        return False
    if not (norm is None or isinstance(norm, FrozenStatsBatchNorm2d)) or not _has_type(_dtype(maps)):
        return False
    # Autocast casts the maps, but never a residual.
    if residual is not None and residual.dtype != _dtype(maps):
        return False
    return (None if act is None else type(act)) in ACTIVATIONS


def _fused(
    conv: nn.Conv2d, norm: nn.Module | None, act: nn.Module | None, maps: Tensor, residual: Tensor | None
) -> Tensor:
    operators: Any = torch.ops.mkldnn
    dtype = _dtype(maps)
    maps = maps.to(dtype)
    weight, bias = _kept_or_made(conv, norm, dtype)
    shape = (conv.padding, conv.stride, conv.dilation, conv.groups)
    name, numbers = ACTIVATIONS[None if act is None else type(act)]
    result: Tensor
    if residual is None:
        result = operators._convolution_pointwise(maps, weight, bias, *shape, name, numbers, "")
    else:
        result = operators._convolution_pointwise_.binary(
            residual, maps, weight, bias, *shape, "add", 1.0, None if act is None else name, numbers, ""
        )
    return result


def _has_type(dtype: torch.dtype) -> bool:
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def _dtype(maps: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else maps.dtype


def _kept_or_made(
    layer: nn.Conv2d | nn.Linear, norm: nn.Module | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """The operator's weight and bias.

    To tell whether weights have changed (fused optimizers do not count it) takes as long as to make them.
    """
    kept = _kept.get()
    if kept is None:
        return _made(layer, norm, dtype)
    if (layer, norm, dtype) not in kept:
        kept[layer, norm, dtype] = _made(layer, norm, dtype)
    return kept[layer, norm, dtype]


def _made(
    layer: nn.Conv2d | nn.Linear, norm: nn.Module | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Weight and bias with the norm in them, in the type of the maps.

    In oneDNN's own order (``_reorder_convolution_weight``) they were no faster, or slower where maps are
    channels-last.
    """
    weight: Tensor = layer.weight
    bias: Tensor | None = layer.bias
    if isinstance(norm, FrozenStatsBatchNorm2d):
        assert isinstance(layer, nn.Conv2d), "only convolutions have norms"
        weight, bias = folded(layer, norm)
    return weight.to(dtype), None if bias is None else bias.to(dtype)
