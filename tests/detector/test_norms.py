"""Batch norm over all workers' maps, whatever each of them holds, and norms folded into convolutions."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from drcnn.detector.norms import FrozenStatsBatchNorm2d, GlobalBatchNorm2d, conv_norm

CHANNELS = 3


class Outcome(NamedTuple):
    """What one training step of a norm leaves."""

    output: Tensor
    input_gradient: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor
    running_mean: Tensor
    running_var: Tensor


def maps(count: int) -> Tensor:
    """The first of a series of maps; far from mean 0 and variance 1."""
    generator = torch.Generator().manual_seed(3)
    return (
        torch.randn(64, CHANNELS, 5, 4, generator=generator)[:count]
        * torch.tensor([1.0, 2.0, 0.5])[:, None, None]
        + torch.tensor([0.3, -2.0, 1.0])[:, None, None]
    )


def start(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.5, 0.7, -1.0]))
        norm.bias.copy_(torch.tensor([0.1, 0.0, -0.4]))
        norm.running_mean.copy_(torch.tensor([0.2, -0.1, 0.0]))
        norm.running_var.copy_(torch.tensor([1.5, 0.5, 2.0]))
    return norm.train()


def step(norm: nn.BatchNorm2d, inputs: Tensor, first: int = 0) -> Outcome:
    """Forward and backward of a loss in which every element counts differently; ``first``: of its maps."""
    inputs = inputs.clone().requires_grad_()
    output = norm(inputs)
    importance = torch.randn(64, CHANNELS, 5, 4, generator=torch.Generator().manual_seed(5))
    (output * importance[first : first + len(inputs)]).sum().backward()
    return Outcome(
        output.detach(), inputs.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var
    )


def assert_same(outcome: Outcome, expected: Outcome) -> None:
    for name, value in expected._asdict().items():
        torch.testing.assert_close(getattr(outcome, name), value, rtol=1e-4, atol=1e-5, msg=name)


def test_alone_it_is_plain_batch_norm() -> None:
    ours, plain = start(GlobalBatchNorm2d(CHANNELS)), start(nn.BatchNorm2d(CHANNELS))
    assert_same(step(ours, maps(7)), step(plain, maps(7)))
    assert torch.equal(ours.eval()(maps(3)), plain.eval()(maps(3)))


def test_a_batch_without_maps_keeps_the_statistics_and_the_graph() -> None:
    norm = start(GlobalBatchNorm2d(CHANNELS))
    before = copy.deepcopy(norm.state_dict())
    outcome = step(norm, maps(0))
    assert outcome.output.shape == (0, CHANNELS, 5, 4)
    assert (outcome.weight_gradient == 0).all()
    assert (outcome.bias_gradient == 0).all()
    torch.testing.assert_close(outcome.running_mean, before["running_mean"])
    torch.testing.assert_close(outcome.running_var, before["running_var"])


def test_a_single_value_a_channel_becomes_the_bias() -> None:
    norm = start(GlobalBatchNorm2d(CHANNELS))
    values = torch.tensor([3.0, -1.0, 0.5]).view(1, CHANNELS, 1, 1).requires_grad_()
    output = norm(values)
    torch.testing.assert_close(output.flatten(), norm.bias, rtol=0, atol=1e-4)
    output.sum().backward()
    torch.testing.assert_close(values.grad, torch.zeros_like(values), rtol=0, atol=1e-3)
    assert all(torch.isfinite(buffer).all() for buffer in norm.buffers())


# Maps of the first and of the second worker.
COUNTS = [(4, 4), (6, 1), (0, 5), (5, 0), (0, 0)]


def _worker(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    for counts in COUNTS:
        first = counts[0] if rank else 0
        mine = maps(sum(counts))[first : first + counts[rank]]
        outcome = step(start(GlobalBatchNorm2d(CHANNELS)), mine, first)
        torch.save(outcome._asdict(), folder / f"{counts}_{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each of two workers has after a step, for all of ``COUNTS``."""
    folder = tmp_path_factory.mktemp("workers")
    mp.start_processes(_worker, (folder,), nprocs=2, start_method="spawn")
    return folder


@pytest.mark.parametrize("counts", COUNTS)
def test_two_workers_are_plain_batch_norm_on_all_their_maps(
    counts: tuple[int, int], two_workers: Path
) -> None:
    """Output, statistics, and gradients: of each worker's own maps, and of the parameters as a sum."""
    ranks = [Outcome(**torch.load(two_workers / f"{counts}_{rank}.pt")) for rank in (0, 1)]
    together = Outcome(
        torch.cat([each.output for each in ranks]),
        torch.cat([each.input_gradient for each in ranks]),
        ranks[0].weight_gradient + ranks[1].weight_gradient,
        ranks[0].bias_gradient + ranks[1].bias_gradient,
        ranks[0].running_mean,
        ranks[0].running_var,
    )
    # Plain batch norm refuses to train on nothing; ours is tested for it above.
    plain = nn.BatchNorm2d(CHANNELS) if sum(counts) > 0 else GlobalBatchNorm2d(CHANNELS)
    assert_same(together, step(start(plain), maps(sum(counts))))
    assert torch.equal(ranks[0].running_mean, ranks[1].running_mean)
    assert torch.equal(ranks[0].running_var, ranks[1].running_var)


CONVOLUTIONS = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": 3, "padding": 1, "stride": 2},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 2},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "depthwise": {"kernel_size": 3, "groups": 4},
    "1x1": {"kernel_size": 1},
}


def frozen_norm(channels: int) -> FrozenStatsBatchNorm2d:
    norm = FrozenStatsBatchNorm2d(channels)
    generator = torch.Generator().manual_seed(1)
    for value in (norm.weight, norm.bias, norm.running_mean):
        value.data.normal_(generator=generator)
    norm.running_var.uniform_(0.2, 3.0, generator=generator)
    return norm


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("has_bias", [False, True])
def test_folding_equals_convolving_then_normalising(kind: str, has_bias: bool) -> None:
    """Output, and in a frozen stage the gradient of what comes in."""
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, bias=has_bias, **CONVOLUTIONS[kind]).double()
    norm = frozen_norm(8).double()
    inputs = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    expected = norm(conv(inputs))
    with torch.no_grad():
        torch.testing.assert_close(conv_norm(conv, norm, inputs), expected)
    torch.testing.assert_close(conv_norm(conv, norm, inputs), expected)  # learning: nothing is folded
    conv.requires_grad_(False)
    norm.requires_grad_(False)
    gradients = []
    for make in (lambda x: conv_norm(conv, norm, x), lambda x: norm(conv(x))):
        leaf = inputs.clone().requires_grad_()
        output = make(leaf)
        torch.testing.assert_close(output, expected)
        (output**2).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("make", [GlobalBatchNorm2d, lambda channels: nn.GroupNorm(2, channels)])
@pytest.mark.parametrize("training", [True, False])
def test_other_norms_are_never_folded(make: type[nn.Module], training: bool) -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(4, 8, 3), make(8).train(training)
    inputs = torch.randn(2, 4, 9, 8)
    with torch.no_grad():
        expected = copy.deepcopy(norm)(conv(inputs))
        assert torch.equal(conv_norm(conv, norm, inputs), expected)


def test_in_training_the_convolution_and_the_scale_of_a_frozen_norm_learn() -> None:
    torch.manual_seed(0)
    conv, norm, inputs = nn.Conv2d(4, 8, 3, bias=False), frozen_norm(8), torch.randn(2, 4, 9, 8)
    results = []
    for make in (lambda: conv_norm(conv, norm, inputs), lambda: norm(conv(inputs))):
        conv.zero_grad()
        norm.zero_grad()
        (make() ** 2).sum().backward()
        results.append([p.grad.clone() for p in (conv.weight, norm.weight, norm.bias)])
    for ours, plain in zip(*results, strict=True):
        assert plain.abs().sum() > 0
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
