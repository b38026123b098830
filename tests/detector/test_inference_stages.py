"""Inference: Table X's stages from one set of weights, and early rejection, against loops without it."""

from __future__ import annotations

import pytest
import torch

from drcnn.config import ConfigError
from drcnn.detector.roi_heads import RoIHeads
from drcnn.variants import DETECTORS

from .head_helpers import (
    BATCH,
    CLASSES,
    assert_same_detections,
    listed,
    make_features,
    make_heads,
    make_proposals,
    plain_detections,
    toy_config,
)

PROPOSALS = make_proposals(BATCH)
# (i, j) of Table X, and the classifiers whose logits are averaged.
TABLE_X = [
    (1, 1, (1,)),
    (2, 1, (1,)),
    (3, 1, (1,)),
    (3, 2, (2,)),
    (3, 3, (3,)),
    (3, None, (1, 2, 3)),
]
CLASSIFIERS = {"cascade_rcnn": (1, 2, 3), "decoupled_cascade_cls": (1, 2, 3)}


def with_weights_of(trained: RoIHeads, variant: str, **changes: object) -> RoIHeads:
    """The same weights under other settings."""
    heads = make_heads(variant, seed=99, **changes)
    heads.load_state_dict(trained.state_dict())
    return heads


@pytest.mark.parametrize("variant", ["cascade_rcnn", "decoupled_cascade_cls"])
@pytest.mark.parametrize(("box_stage", "class_stage", "averaged"), TABLE_X)
def test_each_column_of_table_x_comes_from_one_set_of_weights(
    variant: str, box_stage: int, class_stage: int | None, averaged: tuple[int, ...]
) -> None:
    """Boxes after regressor i; classifier j judges the boxes that enter stage j, not those that leave it."""
    heads = with_weights_of(
        make_heads(variant, seed=7),
        variant,
        test_stage=box_stage,
        test_classifier=class_stage,
        score_thr=0.35,
    )
    features = make_features(2)
    found = heads.detect(features, PROPOSALS, BATCH.sizes)
    expected = plain_detections(
        heads, features, PROPOSALS, BATCH.sizes, box_stage=box_stage, class_stages=averaged, score_thr=0.35
    )
    assert len(found.scores) > 5
    assert_same_detections(found, expected)


@pytest.mark.parametrize("variant", ["cascade_rcnn", "decoupled_cascade_cls"])
def test_the_columns_of_table_x_differ(variant: str) -> None:
    """Otherwise the test above could not tell them apart."""
    trained, scores, boxes = make_heads(variant, seed=7), set(), set()
    for box_stage, class_stage, _ in TABLE_X:
        heads = with_weights_of(
            trained, variant, test_stage=box_stage, test_classifier=class_stage, score_thr=0.0, nms_final=1.0
        )
        found = heads.detect(make_features(2), PROPOSALS, BATCH.sizes)
        scores.add(round(float(found.scores.sum()), 3))
        boxes.add(round(float(found.boxes.sum()), 1))
    assert len(scores) == 4  # of classifiers 1, 2, 3 and all
    assert len(boxes) == len(TABLE_X)  # of 100 detections, chosen by score


@pytest.mark.parametrize("variant", ["decoupled_cascade", "double_head_cascade"])
@pytest.mark.parametrize("box_stage", [1, 2, 3])
def test_a_cascade_of_regressors_can_stop_early(variant: str, box_stage: int) -> None:
    heads = with_weights_of(make_heads(variant, seed=7), variant, test_stage=box_stage, score_thr=0.35)
    features = make_features(2)
    found = heads.detect(features, PROPOSALS, BATCH.sizes)
    expected = plain_detections(
        heads,
        features,
        PROPOSALS,
        BATCH.sizes,
        box_stage=box_stage,
        class_stages=(1,),
        score_thr=0.35,
        enlarge=1.3 if variant.startswith("double") else 1.0,
    )
    assert len(found.scores) > 5
    assert_same_detections(found, expected)


@pytest.mark.parametrize("variant", DETECTORS)
def test_early_rejection_changes_nothing(variant: str) -> None:
    """The loop takes every proposal through every stage, though most have no class above the threshold."""
    heads, features = make_heads(variant, seed=7), make_features(2)
    everything = heads.inference._replace(score_thr=0.0, nms=1.0, max_detections=10_000)
    heads.inference, usual = everything, heads.inference
    scores = heads.detect(features, PROPOSALS, BATCH.sizes).scores.sort(descending=True).values
    score_thr = float(scores[40] + scores[41]) / 2
    heads.inference = usual._replace(score_thr=score_thr)
    kept = []
    last = heads.stage(len(heads.stages)).regressor
    last.register_forward_pre_hook(lambda _, args: kept.append(len(args[0])))
    found = heads.detect(features, PROPOSALS, BATCH.sizes)
    assert 0 < kept[0] <= 41 < len(listed(PROPOSALS)) / 2
    expected = plain_detections(
        heads,
        features,
        PROPOSALS,
        BATCH.sizes,
        box_stage=len(heads.stages),
        class_stages=CLASSIFIERS.get(variant, (1,)),
        score_thr=score_thr,
        enlarge=1.3 if variant.startswith("double") else 1.0,
    )
    assert_same_detections(found, expected)


@pytest.mark.parametrize("variant", DETECTORS)
def test_nothing_above_the_threshold_gives_no_detections(variant: str) -> None:
    heads = make_heads(variant, score_thr=0.999)
    found = heads.detect(make_features(2), PROPOSALS, BATCH.sizes)
    assert len(found.scores) == 0
    assert found.boxes.shape == (0, 4)


@pytest.mark.parametrize("variant", DETECTORS)
def test_an_image_without_proposals_gives_no_detections(variant: str) -> None:
    heads = make_heads(variant, score_thr=0.0)
    few = PROPOSALS._replace(valid=PROPOSALS.valid & torch.tensor([[False], [True]]))
    found = heads.detect(make_features(2), few, BATCH.sizes)
    assert set(found.image.tolist()) == {1}
    none = PROPOSALS._replace(valid=torch.zeros_like(PROPOSALS.valid))
    assert len(heads.detect(make_features(2), none, BATCH.sizes).scores) == 0


def test_a_class_agnostic_stage_gives_all_classes_one_box_and_a_class_specific_one_each_its_own() -> None:
    def boxes_of_a_proposal(variant: str) -> int:
        heads = make_heads(variant, score_thr=0.0, nms_final=1.0, max_detections=CLASSES)
        single = PROPOSALS._replace(valid=torch.zeros_like(PROPOSALS.valid))
        single.valid[0, 0] = True
        return len(heads.detect(make_features(2), single, BATCH.sizes).boxes.unique(dim=0))

    assert boxes_of_a_proposal("decoupled_cascade") == boxes_of_a_proposal("cascade_rcnn") == 1
    assert boxes_of_a_proposal("decoupled") == boxes_of_a_proposal("fpn") == CLASSES


def test_a_classifier_that_would_judge_later_boxes_is_refused() -> None:
    with pytest.raises(ConfigError, match="test_classifier 3"):
        toy_config("cascade_rcnn", test_stage=2, test_classifier=3)
