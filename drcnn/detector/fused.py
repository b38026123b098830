"""Convolution, frozen norm, sum and ReLU as one operator, at inference on a CPU.

Around a convolution, its bias, the sum with a residual and the ReLU are passes over whole maps, each about as
long as a 1x1 convolution itself. oneDNN applies them to values that are still in registers. The compiler of
PyTorch uses the same operators (``torch.ops.mkldnn``); here they are called without it: no compilation, any
size of image.

Everywhere else (training, GPUs, export, meta tensors) the layers run one after another.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from drcnn.detector.norms import FrozenStatsBatchNorm2d, conv_norm, folded

__all__ = ["conv_norm_act", "is_fused"]

HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
# Names and numbers of oneDNN's activations.
ACTIVATIONS: dict[type[nn.Module] | None, tuple[str, list[float]]] = {
    None: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
}


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


def is_fused(
    conv: nn.Conv2d,
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
    weight, bias = _weights(conv, norm, dtype)
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


def _weights(conv: nn.Conv2d, norm: nn.Module | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """The convolution's weights and bias, with the norm in them.

    Made at every call: to tell whether weights have changed (fused optimizers do not count it) takes as long.
    """
    weight: Tensor = conv.weight
    bias: Tensor | None = conv.bias
    if isinstance(norm, FrozenStatsBatchNorm2d):
        weight, bias = folded(conv, norm)
    return weight.to(dtype), None if bias is None else bias.to(dtype)
