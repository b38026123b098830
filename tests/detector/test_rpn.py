from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision.ops import batched_nms, nms

from drcnn.batch import Batch
from drcnn.detector import rpn
from drcnn.detector.boxes import clip_boxes, decode, encode
from drcnn.detector.rpn import RPNHead, RPNOutput, anchors_for, propose, rpn_losses

SHAPES = [(12, 16), (6, 8), (3, 4), (2, 2), (1, 1)]


def make_batch(boxes: list[list[list[float]]], height: int = 48, width: int = 64) -> Batch:
    images, most = len(boxes), max(len(each) for each in boxes)
    padded, labels = torch.zeros(images, most, 4), torch.full((images, most), -1)
    for image, each in enumerate(boxes):
        if each:
            padded[image, : len(each)] = torch.tensor(each)
            labels[image, : len(each)] = torch.arange(len(each)) % 3
    return Batch(
        images=torch.randint(0, 255, (images, 3, height, width), dtype=torch.uint8),
        sizes=torch.tensor([[float(height), float(width)]] * images),
        scales=torch.ones(images, 2),
        rows=torch.arange(images),
        keys=torch.arange(images) + 11,
        boxes=padded,
        labels=labels,
    )


def random_output(seed: int, images: int = 2) -> tuple[RPNOutput, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    features = [torch.zeros(images, 8, *shape) for shape in SHAPES]
    anchors = anchors_for(features, 4.0)
    # No two scores are equal: the order of such is not defined.
    total = sum(map(len, anchors))
    ranks = torch.randperm(images * total, generator=generator).reshape(images, total)
    logits = list((6.0 * ranks / ranks.numel() - 3.0).split(list(map(len, anchors)), dim=1))
    deltas = [torch.randn(images, len(a), 4, generator=generator) * 0.3 for a in anchors]
    return RPNOutput(logits, deltas), anchors


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_proposals_equal_a_plain_loop(seed: int) -> None:
    output, anchors = random_output(seed)
    sizes = torch.tensor([[48.0, 64.0], [40.0, 50.0]])
    thresholds = (0.7, 0.9)
    lists = propose(output, anchors, sizes, nms_thresholds=thresholds, pre_nms=100, post_nms=80)
    for threshold, proposals in zip(thresholds, lists, strict=True):
        for image in range(2):
            boxes, scores = [], []
            for logits, deltas, grid in zip(*output, anchors, strict=True):
                top, index = logits[image].sort(descending=True)
                top, index = top[:100], index[:100]
                decoded = clip_boxes(decode(grid[index], deltas[image, index]), sizes[image])
                kept = nms(decoded, top, threshold)
                boxes.append(decoded[kept])
                scores.append(top[kept])
            order = torch.cat(scores).argsort(descending=True)[:80]
            expected = torch.cat(boxes)[order]
            valid = proposals.valid[image]
            assert int(valid.sum()) == len(expected)
            torch.testing.assert_close(proposals.boxes[image, valid], expected)


def test_equal_thresholds_give_the_same_list_and_denser_ones_more_boxes() -> None:
    output, anchors = random_output(5)
    sizes = torch.tensor([[48.0, 64.0]] * 2)

    def counts(*thresholds: float) -> list[int]:
        lists = propose(output, anchors, sizes, nms_thresholds=thresholds, pre_nms=500, post_nms=10_000)
        return [int(proposals.valid.sum()) for proposals in lists]

    assert counts(0.7, 0.7)[0] == counts(0.7, 0.7)[1]
    sparse, dense = counts(0.7, 0.95)
    assert dense > sparse


@pytest.mark.parametrize(("thresholds", "passes"), [((0.7, 0.85), 2), ((0.7, 0.7), 1), ((0.7,), 1)])
def test_one_decoding_and_one_nms_for_each_distinct_threshold(
    thresholds: tuple[float, ...], passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(rpn, "batched_nms", lambda *args: calls.append("nms") or batched_nms(*args))
    monkeypatch.setattr(rpn, "decode", lambda *args: calls.append("decode") or decode(*args))
    output, anchors = random_output(5)
    sizes = torch.tensor([[48.0, 64.0]] * 2)
    propose(output, anchors, sizes, nms_thresholds=thresholds, pre_nms=100, post_nms=80)
    assert calls.count("nms") == passes
    assert calls.count("decode") == len(anchors)


def test_losses_by_hand() -> None:
    """All logits 0 and all deltas 0: BCE is log 2, L1 the mean of the positives' deltas."""
    features = [torch.zeros(1, 8, *shape) for shape in SHAPES]
    anchors = anchors_for(features, 4.0)
    grid = torch.cat(anchors)
    batch = make_batch([[[8.0, 8.0, 24.0, 24.0]]])
    output = RPNOutput(
        [torch.zeros(1, len(a)) for a in anchors], [torch.zeros(1, len(a), 4) for a in anchors]
    )
    losses = rpn_losses(output.at, anchors, batch, samples=64)
    torch.testing.assert_close(losses["loss_rpn_cls"], torch.tensor(2.0).log())
    gt = batch.boxes[0, 0]
    centre = (grid[:, :2] + grid[:, 2:]) / 2
    # The box is itself an anchor: that is the one positive with IoU 1; IoU >= 0.7 may add neighbours.
    from drcnn.detector.boxes import pairwise_iou

    iou = pairwise_iou(grid, gt[None]).squeeze(1)
    positive = iou >= 0.7
    assert int(positive.sum()) >= 1
    assert (centre[positive] - 16).abs().max() <= 8
    expected = encode(grid[positive], gt.expand(int(positive.sum()), 4)).abs().sum() / 64
    torch.testing.assert_close(losses["loss_rpn_reg"], expected)


def test_losses_equal_dense_masks() -> None:
    """The fixed slots give what a loss over all sampled anchors, gathered one by one, gives."""
    output, anchors = random_output(3)
    batch = make_batch([[[4.0, 4.0, 20.0, 22.0], [30.0, 10.0, 60.0, 40.0]], []])
    many = sum(len(a) for a in anchors) * 2
    losses = rpn_losses(output.at, anchors, batch, samples=many)  # enough slots to take every anchor
    from drcnn.detector.matching import match_anchors

    grid = torch.cat(anchors)
    bce = l1 = torch.zeros(())
    count = 0
    for image in range(2):
        every = torch.ones(len(grid), dtype=torch.bool)
        # Cells of 3 levels lie on the image's padding to 32 (48 becomes 64), so all anchors count.
        matches = match_anchors(grid, every, batch.boxes[image], batch.labels[image] >= 0)
        logits, deltas = torch.cat(output.logits, 1)[image], torch.cat(output.deltas, 1)[image]
        part = matches.positive | matches.negative
        count += int(part.sum())
        bce = bce + F.binary_cross_entropy_with_logits(
            logits[part], matches.positive[part].float(), reduction="sum"
        )
        positive = matches.positive
        targets = encode(grid[positive], batch.boxes[image, matches.gt[positive]])
        l1 = l1 + (deltas[positive] - targets).abs().sum()
    torch.testing.assert_close(losses["loss_rpn_cls"], bce / count)
    torch.testing.assert_close(losses["loss_rpn_reg"], l1 / count)


def test_head_unfolds_channels_as_the_anchors_lie() -> None:
    head = RPNHead(8)
    feature = torch.randn(1, 8, 3, 4)
    output = head([feature])
    hidden = F.relu(head.conv(feature))
    raw = head.deltas(hidden)  # channel = anchor * 4 + coordinate
    row, column, anchor = 2, 1, 2
    flat = (row * 4 + column) * 3 + anchor
    torch.testing.assert_close(output.deltas[0][0, flat], raw[0, anchor * 4 : anchor * 4 + 4, row, column])
    torch.testing.assert_close(output.logits[0][0, flat], head.objectness(hidden)[0, anchor, row, column])


@given(st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_the_loss_at_single_anchors_equals_the_dense_head(seed: int) -> None:
    """Same logits, deltas and gradients as the convolution over whole maps, also at their borders."""
    torch.manual_seed(seed)
    head = RPNHead(8)
    for parameter in head.parameters():
        parameter.data.normal_()
    features = [torch.randn(2, 8, *shape, requires_grad=True) for shape in SHAPES]
    index = torch.randint(0, sum(3 * h * w for h, w in SHAPES), (2, 40))
    index[0, :3] = torch.tensor([0, 12 * 16 * 3 - 1, 12 * 16 * 3])  # corners of the first two levels
    weights = torch.randn(2, 40, 5)

    def gradients(logits: torch.Tensor, deltas: torch.Tensor) -> list[torch.Tensor]:
        total = (torch.cat((logits[..., None], deltas), dim=2) * weights).sum()
        return list(torch.autograd.grad(total, [*features, *head.parameters()]))

    dense, sparse = head(features).at(index), head.at(features, index)
    for one, other in zip(dense, sparse, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    for one, other in zip(gradients(*dense), gradients(*sparse), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def test_scores_are_float32_under_autocast_too() -> None:
    """In bf16 they would be some 200 different ones, and ties would decide which proposals there are."""
    torch.manual_seed(0)
    head = RPNHead(16)
    features = [torch.randn(1, 16, 40, 40)]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = head(features)
    assert output.logits[0].dtype == output.deltas[0].dtype == torch.float32
    assert len(output.logits[0].unique()) > 0.9 * output.logits[0].numel()
    torch.testing.assert_close(output.logits[0], head(features).logits[0], rtol=0, atol=1e-3)
