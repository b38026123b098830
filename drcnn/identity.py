"""What decides the result of a trial: its effective settings, and the version of the numerics.

Two configurations with the same effective settings, on the same data, weights and seed, give the same
result; nothing else may enter a trial's identity. What was used besides (torch, device, workers, commit) is
recorded with the result (``drcnn.engine.made_by``).
"""

from __future__ import annotations

from typing import Any

from drcnn.config import Config
from drcnn.variants import VARIANTS

__all__ = ["EVALUATION", "INFERENCE", "NUMERICS", "WITHOUT_EFFECT", "effective_settings"]

# Raise it with every change after which the same settings give other figures than rounding explains.
NUMERICS = 2

# Settings that a trained detector does not depend on: those of its inference ...
INFERENCE = (
    "detector.rpn_pre_nms_test",
    "detector.rpn_post_nms_test",
    "detector.nms_test",
    "detector.test_stage",
    "detector.test_classifier",
    "detector.score_thr",
    "detector.nms_final",
    "detector.soft_nms",
    "detector.max_detections",
)
# ... and those of its evaluation.
EVALUATION = (*INFERENCE, "evaluation.metric", "evaluation.amp")

# They decide which images are read, and the content of those is known. Or only how often somebody looks
# (``every``), or how often training is saved.
WITHOUT_EFFECT = (
    "data.source",
    "data.train_split",
    "data.val_split",
    "data.test_split",
    "data.split",
    "data.train_images",
    "data.val_images",
    "data.test_images",
    "data.on_bad_data",
    "training.checkpoint_minutes",
    "evaluation.every",
)


def effective_settings(config: Config) -> dict[str, Any]:
    """Return the settings that have an effect in this configuration, by dotted key, with the seed.

    Data and weights are not among them: their content counts, not where it lies.

    >>> cosine = Config().with_changes({"training.schedule": "cosine"})
    >>> "training.milestones" in effective_settings(cosine)
    False
    """
    detector, data, training = config.detector, config.data, config.training
    settings = {key: value for key, value in config.flat() if key not in WITHOUT_EFFECT}
    del settings["detector.weights"], settings["training.init"]
    settings["detector.stage_weights"] = detector.stage_weights[: detector.stages]
    settings["detector.test_stage"] = detector.test_stage or detector.stages
    if VARIANTS[detector.variant].classifiers(detector.stages) == 1:
        settings["detector.test_classifier"] = 1
    if training.schedule == "cosine":
        del settings["training.milestones"]
    if data.short_side is None:
        del settings["data.long_side"]
    return settings
