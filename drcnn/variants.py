"""Every variant of the detector: its composition, its limits and the settings that its name brings.

This is the one file to touch to add a variant that recombines existing parts: add an entry to ``VARIANTS``.
``drcnn.config`` validates against it, ``drcnn.presets`` expands its names, and ``drcnn.detector.compose``
builds the heads that it describes. docs/detector.md explains the variants; D1, D2, ... are numbered there.

>>> VARIANTS["cascade_rcnn"].classifiers(stages=3)
3
>>> DETECTORS["decoupled_cascade"]["detector.stages"]
3
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["DETECTORS", "VARIANTS", "Variant"]

# Both branches train on one list of proposals.
ONE_LIST: dict[str, Any] = {
    "detector.stages": 1,
    "detector.nms_cls": 0.7,
    "detector.nms_reg": 0.7,
    "detector.lambda_reg": 1.0,
}
# NMS_cls and the paper's best NMS_reg (Table III). λ of a single stage is left to the recipe, 1 on VOC and
# 0.5 on COCO (D2).
TWO_LISTS: dict[str, Any] = {"detector.stages": 1, "detector.nms_cls": 0.7, "detector.nms_reg": 0.85}
# λ is 0.5 for the paper's cascade (Table VI).
THREE_STAGES: dict[str, Any] = {**TWO_LISTS, "detector.stages": 3, "detector.lambda_reg": 0.5}


@dataclass(frozen=True)
class Variant:
    """How a detector's heads and RPN are composed.

    Attributes:
        settings: dotted settings that the variant's name brings.
        proposal_lists: 1: both branches train on the same RoIs, so NMS_cls and NMS_reg must be equal; 2: each
            branch samples RoIs of its own.
        trunk: layers between the RoI features and the two predictors: ``shared``, ``separate``, or
            ``double_head``: separate, with Double-Head's convolutions for the regressor.
        max_stages: the most that ``detector.stages`` may be.
        cascades_classifier: stages after the first have a classifier too, not only a regressor.
        class_specific: the first stage predicts a box for each class. Later stages always predict one box for
            all classes (D10).
        regressor_sampling: with two lists: ``positives`` takes all positive proposals, ``random`` samples as
            the classifier does and keeps the positives.
        ious: for each stage, the overlap from which a RoI is positive.
        beta: of the heads' smooth L1 loss; 0 is L1. Only for one list of proposals.
        rpn_beta: of the RPN's smooth L1 loss; 0 is L1.
        rpn_ignores_crossing: anchors that cross the image's border take no part in the RPN's losses.
    """

    settings: Mapping[str, Any]
    proposal_lists: Literal[1, 2]
    trunk: Literal["shared", "separate", "double_head"]
    max_stages: int = 1
    cascades_classifier: bool = False
    class_specific: bool = True
    regressor_sampling: Literal["positives", "random"] = "positives"
    ious: tuple[float, ...] = (0.5, 0.5, 0.5, 0.5)
    beta: float = 0.0
    rpn_beta: float = 0.0
    rpn_ignores_crossing: bool = False

    def classifiers(self, stages: int) -> int:
        """Return how many of ``stages`` stages have a classifier."""
        return stages if self.cascades_classifier else 1


# The values of ``detector.variant``.
VARIANTS: dict[str, Variant] = {
    # Faster R-CNN with FPN, and the same with separate fully connected layers (Table II).
    "fpn": Variant(ONE_LIST, proposal_lists=1, trunk="shared"),
    "fpn_unshared": Variant(ONE_LIST, proposal_lists=1, trunk="separate"),
    # The paper's detector; detector.stages cascades its regressor (Tables III to IX).
    "decoupled": Variant(TWO_LISTS, proposal_lists=2, trunk="separate", max_stages=4),
    # With one set of fully connected layers for both branches (Table II).
    "decoupled_shared": Variant(TWO_LISTS, proposal_lists=2, trunk="shared"),
    # Cascade R-CNN (Tables IX and X); it trains on 2,000 proposals.
    "cascade_rcnn": Variant(
        {**ONE_LIST, "detector.stages": 3, "detector.rpn_post_nms_train": 2000},
        proposal_lists=1,
        trunk="shared",
        max_stages=3,
        cascades_classifier=True,
        class_specific=False,
        ious=(0.5, 0.6, 0.7),
        beta=1.0,
        rpn_beta=1 / 9,
        rpn_ignores_crossing=True,
    ),
    # Decoupled, with the classifiers cascaded too (Table X, D17).
    "decoupled_cascade_cls": Variant(
        {**THREE_STAGES, "detector.lambda_reg": 1.0},
        proposal_lists=2,
        trunk="separate",
        max_stages=3,
        cascades_classifier=True,
        class_specific=False,
        ious=(0.5, 0.6, 0.7),
    ),
    # Decoupled, with Double-Head's convolutional regressor (Table XI).
    "double_head": Variant(TWO_LISTS, proposal_lists=2, trunk="double_head", max_stages=4),
    # Two lists of proposals, but random sampling in both branches (Table I, D17).
    "two_samplings": Variant(
        {**TWO_LISTS, "detector.lambda_reg": 1.0},
        proposal_lists=2,
        trunk="separate",
        regressor_sampling="random",
    ),
}

# Every name that ``--set detector.variant=NAME`` takes, with the settings that it stands for. Two names are a
# variant with three stages; a configuration then holds the variant's own name.
DETECTORS: dict[str, dict[str, Any]] = {
    **{name: {"detector.variant": name, **variant.settings} for name, variant in VARIANTS.items()},
    "decoupled_cascade": {"detector.variant": "decoupled", **THREE_STAGES},
    "double_head_cascade": {"detector.variant": "double_head", **THREE_STAGES},
}
