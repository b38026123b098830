"""The decoupled heads of every variant against hand-computed losses and loops over single RoIs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from drcnn.batch import Batch
from drcnn.detector.boxes import encode
from drcnn.detector.decoupled_heads import DecoupledHeads
from drcnn.detector.roi_heads import RoIHeads
from drcnn.detector.roi_sampling import RandomSampler, RoIs
from drcnn.detector.rpn import Proposals

from .head_helpers import (
    BATCH,
    CLASSES,
    PLENTY,
    RISING_IOUS,
    STDS,
    WEIGHTS,
    assert_same_detections,
    assigned,
    deltas_of,
    listed,
    make_features,
    make_heads,
    make_proposals,
    moved,
    objects,
    own,
    plain_decoupled_losses,
    plain_detections,
    pooled,
    positives,
)
from .test_rpn import make_batch

# Two lists that differ, as NMS_cls and NMS_reg make them.
CLS, REG = make_proposals(BATCH, seed=2), make_proposals(BATCH, count=80, seed=3)


def watch(module: nn.Module) -> list[Tensor]:
    """Return what goes into a module, filled while it runs."""
    seen: list[Tensor] = []
    module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    return seen


def gradient_of(loss: Tensor, heads: RoIHeads) -> set[str]:
    """The parts ('stages.0.classifier') whose parameters a loss changes."""
    heads.zero_grad()
    loss.backward(retain_graph=True)
    return {
        ".".join(name.split(".")[:3])
        for name, parameter in heads.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }


@pytest.mark.parametrize(
    ("variant", "stages", "ious"),
    [
        ("decoupled", 1, (0.5,)),
        ("decoupled", 2, (0.5,) * 2),
        ("decoupled", 3, (0.5,) * 3),
        ("decoupled", 4, (0.5,) * 4),
        ("decoupled_shared", 1, (0.5,)),
        ("decoupled_cascade_cls", 2, RISING_IOUS[:2]),
        ("decoupled_cascade_cls", 3, RISING_IOUS),
    ],
)
def test_losses_equal_a_loop_over_rois(variant: str, stages: int, ious: tuple[float, ...]) -> None:
    """L_cls is a mean; L_reg is λ·w_k·Σ|Δ - Δ*| over positives by 512·N, here 400·N (Eq. 8)."""
    heads = make_heads(variant, stages=stages, roi_samples=PLENTY, lambda_reg=0.75)
    features = make_features(2)
    losses = heads.losses(features, CLS, REG, BATCH)
    expected = plain_decoupled_losses(
        heads, features, CLS, REG, BATCH, ious=ious, lambda_reg=0.75, samples=PLENTY
    )
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert value > 0
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_double_head_losses_equal_a_loop_over_rois(stages: int) -> None:
    """RoIs of the regressor are pooled 1.3 times as large, in all stages; the classifier's are not."""
    heads = make_heads("double_head", stages=stages, roi_samples=PLENTY, lambda_reg=0.5)
    features = make_features(2)
    losses = heads.losses(features, CLS, REG, BATCH)
    settings = {"ious": (0.5,) * stages, "lambda_reg": 0.5, "samples": PLENTY}
    expected = plain_decoupled_losses(heads, features, CLS, REG, BATCH, **settings, enlarge=1.3)
    unscaled = plain_decoupled_losses(heads, features, CLS, REG, BATCH, **settings)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert not torch.isclose(losses["loss_reg_1"], unscaled["loss_reg_1"], rtol=1e-3)


def test_the_loop_meets_rois_that_leave_and_that_change_their_object() -> None:
    """Otherwise the tests above would not show whether moved RoIs are assigned again."""
    heads, features = make_heads("decoupled", stages=2), make_features(2)
    before = positives(assigned(listed(REG), BATCH, 0.5))
    after = [
        moved(roi, own(deltas_of(heads.stage(1), features, roi), roi.label), 1, BATCH.sizes) for roi in before
    ]
    stay = positives(assigned(after, BATCH, 0.5))
    assert 5 < len(stay) < len(before)
    # Crowded enough, and some go over to another object.
    near = make_batch([[[8.0, 8.0, 32.0, 32.0], [13.0, 11.0, 37.0, 35.0], [8.0, 14.0, 30.0, 40.0]]])
    crowd = make_proposals(near, jitter=8.0)
    before = positives(assigned(listed(crowd), near, 0.5))
    after = [
        moved(roi, own(deltas_of(heads.stage(1), features, roi), roi.label), 1, near.sizes) for roi in before
    ]
    labels = [(old.label, new.label) for old, new in zip(before, assigned(after, near, 0.5), strict=True)]
    assert any(new not in (old, CLASSES) for old, new in labels)
    heads = make_heads("decoupled", stages=2, roi_samples=PLENTY)
    losses = heads.losses(features, crowd, crowd, near)
    expected = plain_decoupled_losses(
        heads, features, crowd, crowd, near, ious=(0.5, 0.5), lambda_reg=1.0, samples=PLENTY
    )
    torch.testing.assert_close(losses["loss_reg_2"], expected["loss_reg_2"], rtol=1e-4, atol=1e-6)


def test_lambda_is_the_paper_code_divisor() -> None:
    """λ = 0.5 is the official divisor of 1024·N, λ = 1 that of 512·N (docs/detector.md, D2 and D3)."""
    one, half = (
        make_heads("decoupled", lambda_reg=value).losses(make_features(2), CLS, REG, BATCH)
        for value in (1.0, 0.5)
    )
    torch.testing.assert_close(half["loss_reg_1"], one["loss_reg_1"] / 2)
    assert half["loss_cls"] == one["loss_cls"]


def test_stage_weights_multiply_every_loss_of_their_stage() -> None:
    plain, weighted = (
        make_heads("decoupled_cascade_cls", stage_weights=weights).losses(make_features(2), CLS, REG, BATCH)
        for weights in ((1.0, 1.0, 1.0, 1.0), WEIGHTS)
    )
    for number, weight in enumerate(WEIGHTS[:3], start=1):
        name = "loss_cls" if number == 1 else f"loss_cls_{number}"
        torch.testing.assert_close(weighted[name], weight * plain[name])
        torch.testing.assert_close(weighted[f"loss_reg_{number}"], weight * plain[f"loss_reg_{number}"])


def test_classification_loss_is_the_mean_over_its_samples() -> None:
    heads = make_heads("decoupled")
    for parameter in heads.stage(1).classifier.predictor.parameters():
        parameter.data.zero_()
    loss = heads.losses(make_features(2), CLS, REG, BATCH)["loss_cls"]
    torch.testing.assert_close(loss, torch.tensor(float(CLASSES + 1)).log())


@pytest.mark.parametrize("variant", ["decoupled", "decoupled_cascade", "double_head_cascade"])
def test_regressors_never_see_ground_truth_as_proposals(variant: str) -> None:
    far = Proposals(torch.tensor([[[0.0, 0, 5, 5]], [[0.0, 0, 5, 5]]]), torch.ones(2, 1, dtype=torch.bool))
    losses = make_heads(variant).losses(make_features(2), far, far, BATCH)
    assert losses.pop("loss_cls") > 0
    assert all(loss == 0 for loss in losses.values())


@pytest.mark.parametrize("variant", ["decoupled", "decoupled_cascade", "decoupled_cascade_cls"])
def test_gradients_reach_exactly_their_own_branch(variant: str) -> None:
    heads = make_heads(variant)
    losses = heads.losses(make_features(2), CLS, REG, BATCH)
    for name, loss in losses.items():
        kind, number = name.removeprefix("loss_").partition("_")[::2]
        branch = {"cls": "classifier", "reg": "regressor"}[kind]
        # Boxes are detached between stages: a later stage's loss does not reach an earlier regressor.
        assert gradient_of(loss, heads) == {f"stages.{int(number or 1) - 1}.{branch}"}


def test_both_branches_of_the_shared_head_train_its_stem() -> None:
    heads = make_heads("decoupled_shared")
    seen = watch(heads.stage(1).stem)
    losses = heads.losses(make_features(2), CLS, REG, BATCH)
    assert gradient_of(losses["loss_cls"], heads) == {"stages.0.stem", "stages.0.classifier"}
    assert gradient_of(losses["loss_reg_1"], heads) == {"stages.0.stem", "stages.0.regressor"}
    # One pass for both sets of RoIs: 16 samples of each image for the classifier, the positives of the other.
    found = torch.tensor([roi.image for roi in positives(assigned(listed(REG), BATCH, 0.5))])
    assert [len(maps) for maps in seen] == [2 * 16 + int(torch.bincount(found).clamp(max=16).sum())]


def test_only_the_regressor_of_a_double_head_pools_enlarged_rois() -> None:
    """With group norm, which looks at each RoI alone, only those that it regresses."""
    heads, features = make_heads("double_head", roi_samples=PLENTY, norm="group"), make_features(2)
    to_classifier, to_regressor = watch(heads.stage(1).classifier), watch(heads.stage(1).regressor)
    heads.losses(features, CLS, REG, BATCH)
    found = positives(assigned(listed(REG), BATCH, 0.5))
    expected = torch.cat([pooled(features, roi, 1.3) for roi in found])
    (maps,) = to_regressor
    assert len(maps) == len(expected)
    assert_same_rows(maps, expected)
    gt = sum(int((labels >= 0).sum()) for labels in BATCH.labels)
    (maps,) = to_classifier
    assert len(maps) == len(listed(CLS)) + gt
    expected = torch.cat([pooled(features, roi) for roi in listed(CLS)])
    assert distances(expected, maps).amin(dim=1).max() < 1e-3


def distances(one: Tensor, other: Tensor) -> Tensor:
    """The largest difference of each row from each other row."""
    return torch.cdist(one.flatten(1), other.flatten(1), p=torch.inf)


def assert_same_rows(one: Tensor, other: Tensor) -> None:
    """In any order: each row of either is near one of the other's."""
    distance = distances(one, other)
    assert distance.amin(dim=0).max() < 1e-3
    assert distance.amin(dim=1).max() < 1e-3


def test_two_samplings_regress_the_positives_of_a_random_sample_with_ground_truth() -> None:
    """Table I's sampler: with room for all, the positives and the objects themselves."""
    heads, features = make_heads("two_samplings", roi_samples=PLENTY), make_features(2)
    losses = heads.losses(features, CLS, REG, BATCH)
    total = torch.zeros(())
    found = positives(assigned(listed(REG), BATCH, 0.5))
    themselves = [
        roi._replace(
            gt=roi.box, label=int(BATCH.labels[roi.image][(BATCH.boxes[roi.image] == roi.box).all(1)])
        )
        for roi in objects(BATCH)
    ]
    for roi in found + themselves:
        deltas = own(deltas_of(heads.stage(1), features, roi), roi.label)
        total = total + (deltas - encode(roi.box, roi.gt, STDS[0])).abs().sum()
    torch.testing.assert_close(losses["loss_reg_1"], total / (PLENTY * 2), rtol=1e-4, atol=1e-6)


def test_two_samplings_take_one_in_four_and_draw_for_themselves() -> None:
    heads = make_heads("two_samplings", roi_samples=16)
    assert isinstance(heads, DecoupledHeads)
    batch, proposals = repeated(BATCH, 50), repeated_proposals(REG, 50)
    mine = heads.reg_sampler(proposals, batch, iou=0.5)
    mine = mine.at(mine.positives())
    assert (torch.bincount(mine.image) == 4).all()  # a quarter of 16; there are more positives
    assert mine.is_gt.any()
    theirs = heads.cls_sampler(proposals, batch, iou=0.5)
    theirs = theirs.at(theirs.positives())
    # From the same list, streams of their own: the same four only by chance.
    same = [torch.equal(boxes_of(mine, image), boxes_of(theirs, image)) for image in range(len(batch))]
    assert sum(same) < 5


def boxes_of(rois: RoIs, image: int) -> Tensor:
    """An image's boxes in an order of their own."""
    boxes = rois.boxes[rois.image == image]
    return boxes[boxes[:, 0].argsort()]


def repeated(batch: Batch, times: int) -> Batch:
    """The same images many times, each with a key of its own."""
    values = {name: torch.cat([value] * times) for name, value in vars(batch).items()}
    return Batch(**{**values, "keys": torch.arange(len(batch) * times) * 7919})


def repeated_proposals(proposals: Proposals, times: int) -> Proposals:
    return Proposals(*(torch.cat([value] * times) for value in proposals))


def test_class_specific_stage_trains_only_the_matched_classes() -> None:
    heads = make_heads("decoupled")
    heads.losses(make_features(2), CLS, REG, BATCH)["loss_reg_1"].backward()
    weight = heads.stage(1).regressor.predictor.weight
    gradient = weight.grad.unflatten(0, (CLASSES, 4)).abs().sum(dim=(1, 2))
    present = {int(label) for label in BATCH.labels.flatten() if label >= 0}
    assert {label for label in range(CLASSES) if gradient[label] > 0} == present
    assert present != set(range(CLASSES))


@pytest.mark.parametrize("variant", ["decoupled_cascade", "decoupled_cascade_cls", "double_head_cascade"])
def test_batches_without_objects_keep_the_graph_and_give_zero(variant: str) -> None:
    batch = make_batch([[], []])
    assert batch.boxes.shape == (2, 0, 4)
    heads = make_heads(variant).train()
    proposals = make_proposals(batch)
    losses = heads.losses(make_features(2), proposals, proposals, batch)
    assert [losses[f"loss_reg_{stage}"].item() for stage in (1, 2, 3)] == [0, 0, 0]
    assert math.isfinite(losses["loss_cls"].item())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in heads.parameters())


@pytest.mark.parametrize("variant", ["decoupled", "two_samplings"])
def test_samples_of_an_image_do_not_depend_on_its_company(variant: str) -> None:
    """The same image alone or second in a batch draws the same RoIs: so DDP changes nothing."""
    heads = make_heads(variant)
    assert isinstance(heads, DecoupledHeads)
    single = Batch(**{name: value[1:2, :1] if name in ("boxes", "labels") else value[1:2]
                      for name, value in vars(BATCH).items()})  # fmt: skip
    alone_cls = heads.cls_sampler(Proposals(CLS.boxes[1:], CLS.valid[1:]), single, iou=0.5)
    alone_reg = heads.reg_sampler(Proposals(REG.boxes[1:], REG.valid[1:]), single, iou=0.5)
    both_cls = heads.cls_sampler(CLS, BATCH, iou=0.5)
    both_reg = heads.reg_sampler(REG, BATCH, iou=0.5)
    for alone, both in ((alone_cls, both_cls), (alone_reg, both_reg)):
        mine = both.at((both.image == 1).nonzero().squeeze(1))
        assert len(mine.boxes) == len(alone.boxes) > 0
        for name in ("boxes", "gt", "labels", "is_gt"):
            if name == "gt":  # meaningful where positive
                there = alone.labels >= 0
                assert torch.equal(mine.gt[there], alone.gt[there])
            else:
                assert torch.equal(getattr(mine, name), getattr(alone, name))


def test_stages_draw_from_streams_of_their_own() -> None:
    sampler, batch = RandomSampler(16, 0.25), repeated(BATCH, 20)
    first, second = (sampler(repeated_proposals(CLS, 20), batch, iou=0.5, stage=stage) for stage in (1, 2))
    same = [torch.equal(boxes_of(first, image), boxes_of(second, image)) for image in range(len(batch))]
    assert not any(same)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_inference_equals_a_loop_over_rois(stages: int) -> None:
    heads, features = make_heads("decoupled", stages=stages, score_thr=0.4), make_features(2)
    found = heads.detect(features, CLS, BATCH.sizes)
    expected = plain_detections(
        heads, features, CLS, BATCH.sizes, box_stage=stages, class_stages=(1,), score_thr=0.4
    )
    assert 0 < len(found.scores) < len(listed(CLS))
    assert_same_detections(found, expected)


def test_only_the_best_detections_of_each_image_stay() -> None:
    settings = {"score_thr": 0.0, "nms_final": 1.0}
    few, many = (
        make_heads("decoupled", **settings, max_detections=most).detect(make_features(2), CLS, BATCH.sizes)
        for most in (5, 10_000)
    )
    assert torch.bincount(few.image).tolist() == [5, 5]
    for image in range(2):
        best = many.scores[many.image == image].sort(descending=True).values[:5]
        torch.testing.assert_close(few.scores[few.image == image], best)


@pytest.mark.parametrize(
    ("variant", "branches"),
    [
        ("fpn", {"cls"}),
        ("decoupled_cascade", {"cls"}),
        ("cascade_rcnn", {"cls"}),
        ("two_samplings", {"cls", "reg"}),
        ("double_head", {"cls", "reg"}),
    ],
)
def test_images_that_a_sampler_does_not_fill_are_counted(variant: str, branches: set[str]) -> None:
    """In one step of four, one of two images has too few candidates: half a step, added up."""
    heads = make_heads(variant, roi_samples=16)
    for proposals in (scarce_in_the_first(), CLS, CLS, CLS):
        heads.losses(make_features(2), proposals, proposals, BATCH)
    found = {name: float(value) for name, value in heads.take_unfilled().items()}
    assert found == {f"unfilled_{branch}": 0.5 for branch in branches}
    assert heads.take_unfilled() == {}


def half(batch: Batch, image: int) -> Batch:
    return Batch(**{name: value[image : image + 1] for name, value in vars(batch).items()})


def scarce_in_the_first() -> Proposals:
    """Ten candidates in the first image, where the second has more than 16."""
    valid = CLS.valid.clone()
    valid[0] = False
    valid[0, 40:50] = True
    return Proposals(CLS.boxes, valid)


@pytest.mark.parametrize("variant", ["fpn", "decoupled_cascade"])
def test_workers_divide_by_their_own_rois(variant: str) -> None:
    """As in the official code. Where samplers are filled, the mean over workers is one worker's loss."""
    heads, features = make_heads(variant, roi_samples=16), make_features(2)
    for proposals in (CLS, scarce_in_the_first()):
        whole = heads.losses(features, proposals, proposals, BATCH)
        workers = [
            heads.losses(
                [level[image : image + 1] for level in features],
                *[Proposals(proposals.boxes[image : image + 1], proposals.valid[image : image + 1])] * 2,
                half(BATCH, image),
            )
            for image in range(2)
        ]
        mean = {name: sum(losses[name] for losses in workers) / 2 for name in whole}
        if proposals is CLS:
            for name, value in whole.items():
                torch.testing.assert_close(mean[name], value, rtol=1e-4, atol=1e-6, msg=name)
            continue
        # The first has 10 RoIs and its two objects, the second 16: each RoI of the first weighs more.
        weighted = (12 * workers[0]["loss_cls"] + 16 * workers[1]["loss_cls"]) / 28
        torch.testing.assert_close(whole["loss_cls"], weighted, rtol=1e-4, atol=1e-6)
        assert not torch.isclose(mean["loss_cls"], whole["loss_cls"], rtol=1e-4)
        if variant == "decoupled_cascade":  # its divisor is constant
            torch.testing.assert_close(mean["loss_reg_1"], whole["loss_reg_1"], rtol=1e-4, atol=1e-6)
