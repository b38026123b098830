"""What decides the result of a trial: its effective settings, what it starts from, the numerics' version.

Two configurations with the same effective settings, on the same data, weights and seed, give the same
result; nothing else may enter a trial's identity. What was used besides (torch, device, workers, commit) is
recorded with the result (``drcnn.engine.made_by``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from drcnn.backbone_weights import WEIGHT_NAMES
from drcnn.config import Config, ConfigError, DetectorConfig
from drcnn.files import sha256_of
from drcnn.pretrained import shipped
from drcnn.variants import VARIANTS

__all__ = [
    "EVALUATION",
    "INFERENCE",
    "NUMERICS",
    "WITHOUT_EFFECT",
    "effective_settings",
    "start_digest",
    "weights_digest",
]

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


def start_digest(config: Config, sha256: Callable[[Path], str] = sha256_of) -> str:
    """Return the content that training starts from: the whole detector of ``training.init``, or weights.

    Args:
        config: the trial.
        sha256: of a file's content.

    Raises:
        ConfigError: the file cannot be read.
    """
    init = config.training.init
    if init == "none":
        return weights_digest(config.detector, sha256)
    return f"init {init if init == 'coco' else _digest_of(init, sha256, 'training.init', 'coco')}"


def weights_digest(detector: DetectorConfig, sha256: Callable[[Path], str] = sha256_of) -> str:
    """Return the content of a weights file as a hash; the names ``imagenet`` and ``none`` are their own.

    Raises:
        ConfigError: the file cannot be read.
    """
    weights = detector.weights
    if weights == "digits":
        weights = str(shipped(detector.backbone, detector.backbone_width))
    elif weights in WEIGHT_NAMES:
        return weights
    return _digest_of(weights, sha256, "detector.weights", *WEIGHT_NAMES[:-1])


def _digest_of(path: str, sha256: Callable[[Path], str], setting: str, *names: str) -> str:
    try:
        return sha256(Path(path))
    except OSError as error:
        expected = ", ".join(map(repr, (*names, "none")))
        raise ConfigError(
            f"{setting} = {path!r}: {error.strerror}; expected {expected} or the path of a file"
        ) from None
