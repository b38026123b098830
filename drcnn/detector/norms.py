"""Normalisation layers: frozen statistics, batch norm over all workers, group norm."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

__all__ = ["NORM_LAYERS", "FrozenStatsBatchNorm2d", "GlobalBatchNorm2d", "conv_norm", "folded"]


class FrozenStatsBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with fixed running statistics and trainable scale and bias (MMDetection's "norm_eval")."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.eval()  # a new module starts in training mode

    def train(self, mode: bool = True) -> FrozenStatsBatchNorm2d:
        """Stay in evaluation mode, whatever the model does."""
        super().train(False)
        return self

    def affine_map(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift of the channels, [C] each: the whole effect of this layer."""
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return scale, self.bias - self.running_mean * scale


class _SumOverWorkers(torch.autograd.Function):
    """Sum of a tensor over all workers; backward, each worker's input receives the sum of all gradients."""

    @staticmethod
    def forward(ctx: FunctionCtx, local: Tensor) -> Tensor:
        total = local.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose training statistics cover the maps of all workers.

    With plain batch norm, two workers with 4 images each train a different model from one worker with 8.
    ``nn.SyncBatchNorm`` solves that on GPUs but rejects CPU tensors; this layer runs on both. With one worker
    it is plain batch norm. Workers may hold different numbers of maps (a Double-Head normalises its RoIs),
    even none: a batch without any keeps the running statistics and is normalised with them. A single value in
    a channel (an image of 32 pixels has one on its last map) becomes the bias; plain batch norm rejects it.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [N, C, H, W]; N may be 0."""
        is_shared = dist.is_initialized() and dist.get_world_size() > 1
        if not self.training or (not is_shared and _values_a_channel(input) > 1):
            return super().forward(input)
        x = input.float()
        sums = self._local_sums(x)
        if is_shared:
            sums = _SumOverWorkers.apply(sums)
        count = sums[-1].detach()
        is_empty = count == 0
        mean, square = (sums[:-1] / count.clamp(min=1)).chunk(2)
        variance = (square - mean.square()).clamp(min=0)
        mean = torch.where(is_empty, self.running_mean, mean.float())
        variance = torch.where(is_empty, self.running_var, variance.float())
        with torch.no_grad():
            unbiased = torch.where(is_empty, variance, variance * (count / (count - 1).clamp(min=1)).float())
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        normalised: Tensor = x * scale[:, None, None] + shift[:, None, None]
        return normalised.to(input.dtype)

    def _local_sums(self, x: Tensor) -> Tensor:
        """Return each channel's sum and sum of squares, and the number of its values, float64[2C + 1].

        In float64, because the variance is a small difference of large numbers.
        """
        count = _values_a_channel(x)
        if count == 0:
            return torch.zeros(2 * x.shape[1] + 1, dtype=torch.float64, device=x.device) + x.sum()
        variance, mean = (moment.double() for moment in torch.var_mean(x, (0, 2, 3), correction=0))
        return torch.cat((mean * count, (variance + mean.square()) * count, mean.new_tensor([count])))


def _values_a_channel(maps: Tensor) -> int:
    return maps.numel() // maps.shape[1]


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(channels, 16), channels)


NORM_LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "frozen": FrozenStatsBatchNorm2d,
    "batch": GlobalBatchNorm2d,
    "group": _group_norm,
}


def folded(conv: nn.Conv2d, norm: FrozenStatsBatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the convolution that does what ``conv`` and ``norm`` after it do."""
    scale, shift = norm.affine_map()
    bias = shift if conv.bias is None else shift + scale * conv.bias
    return conv.weight * scale[:, None, None, None], bias


def conv_norm(conv: nn.Module, norm: nn.Module, maps: Tensor) -> Tensor:
    """Return ``norm(conv(maps))``; without gradients, frozen statistics are folded into the weights.

    At inference and in frozen stages, a pass over the weights thus replaces one over the maps. In training
    that would save as much forward but cost more backward (measured on a CPU), so the layers stay separate.
    """
    if isinstance(conv, nn.Conv2d) and conv.bias is None and isinstance(norm, FrozenStatsBatchNorm2d):
        is_learning = torch.is_grad_enabled() and conv.weight.requires_grad
        if not is_learning:
            assert isinstance(conv.padding, tuple)
            return F.conv2d(maps, *folded(conv, norm), conv.stride, conv.padding, conv.dilation, conv.groups)
    normalised: Tensor = norm(conv(maps))
    return normalised
