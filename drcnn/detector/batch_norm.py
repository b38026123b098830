"""Batch norm over the global batch, on any device."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

__all__ = ["GlobalBatchNorm2d"]


class _SumOverWorkers(torch.autograd.Function):
    """Sum of a tensor over all workers; so each worker's input receives the sum of all their gradients."""

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
    """Batch norm whose training statistics cover the images of all workers.

    With plain batch norm, two workers with 4 images each train another model than one worker with 8.
    ``nn.SyncBatchNorm`` mends that on GPUs but refuses CPU tensors; this runs on both. Alone, it is plain
    batch norm. All workers must hold equally many images of one shape, as our loader gives them.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [N, C, H, W]."""
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        x = input.float()
        workers = dist.get_world_size()
        moments = torch.stack((x.mean((0, 2, 3)), x.square().mean((0, 2, 3))))
        summed: Tensor = _SumOverWorkers.apply(moments)
        mean, square = summed / workers
        variance = (square - mean.square()).clamp(min=0)
        with torch.no_grad():
            count = x.numel() // x.shape[1] * workers
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / max(count - 1, 1), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        normalised: Tensor = x * scale[:, None, None] + shift[:, None, None]
        return normalised.to(input.dtype)
