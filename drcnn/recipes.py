"""The profiles: their changes to the defaults of ``Config``, for each kind of data.

``paper`` is the paper's setting and needs GPUs. ``laptop`` is sized so that the 24 trials of ``nms_sweep``
take ten minutes on two CPU cores: small images, a small backbone, few RoIs, a short cosine schedule. On
digits the backbone starts from the package's own weights (drcnn/pretrained), on photographs from ImageNet's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drcnn.backbone_weights import are_offered
from drcnn.config import Config, ConfigError
from drcnn.presets import expand

__all__ = ["PROFILES", "configured", "recipe", "start_of"]

PROFILES = ("laptop", "paper")

# What a backbone starts from; in small batches group norm gained 0.04 AP over batch norm.
START = ("detector.weights", "detector.norm", "detector.frozen_stages")
FROM_SCRATCH: dict[str, Any] = dict(zip(START, ("none", "group", 0), strict=True))

# One CPU thread trains and judges it in about 40 seconds. Figures in the comments are AP (0 to 100) on 300
# validation images, each of a single seed: they chose a value, they prove none.
LAPTOP_DIGITS: dict[str, Any] = {
    # The package's own weights: from scratch, seeds differed by 4 AP, which hid every effect of the paper.
    "detector.backbone": "mobilenet_v2",
    "detector.backbone_width": 0.5,
    "detector.weights": "digits",
    "detector.norm": "frozen",
    # With the stage of stride 8 trained as well: 41.8 instead of 45.2, and longer steps. With that of stride
    # 16 frozen too, 2 less.
    "detector.frozen_stages": 2,
    "detector.fpn_channels": 48,
    # Digits are 16 to 56 pixels.
    "detector.anchor_scale": 4.0,
    "detector.rpn_samples": 64,
    "detector.rpn_pre_nms_train": 200,
    "detector.rpn_pre_nms_test": 200,
    # With 100, four images of ten cannot fill their RoIs at NMS_cls 0.9. The paper has 2 a RoI, this 2.3.
    "detector.rpn_post_nms_train": 150,
    "detector.rpn_post_nms_test": 100,
    # 128 cost 3.
    "detector.fc_width": 256,
    # The regression loss is a sum over positives divided by this number. The paper has some 50 to 200 for
    # 512, this recipe 32 at NMS_reg 0.70 and 52 at 0.85 for 64, so the regressor weighs more. 128 changed the
    # AP by less than 1, for a fifth more time; 96, with fewer images to keep the time, gave 2 less.
    "detector.roi_samples": 64,
    "data.short_side": None,
    # A mirrored 2 is not a 2.
    "data.flip": 0.0,
    "data.train_images": 400,
    "data.val_images": 150,
    "data.test_images": 300,
    "training.epochs": 3,
    # In batches of 8 the same images gave 2 less.
    "training.batch_size": 4,
    # In 270 steps, 0.04: 42.0, 0.08: 44.6, 0.12: 45.2 with an AP90 of 2.9 instead of 4.6, 0.16: 43.5.
    "training.lr": 0.08,
    "training.schedule": "cosine",
    "training.warmup_iterations": 50,
    "training.clip_norm": 10.0,
}

LAPTOP_PHOTOS: dict[str, Any] = {
    # Pretrained, with the stem and strides 4 and 8 frozen: 200 photographs at 320x240 suffice.
    "detector.backbone": "mobilenet_v2",
    "detector.frozen_stages": 2,
    "detector.fpn_channels": 64,
    "detector.anchor_scale": 4.0,
    "detector.rpn_pre_nms_train": 500,
    "detector.rpn_pre_nms_test": 400,
    "detector.rpn_post_nms_train": 300,
    "detector.rpn_post_nms_test": 300,
    "detector.fc_width": 512,
    "detector.roi_samples": 128,
    "data.short_side": 240,
    "data.long_side": 320,
    # Small batches give more steps in the same time, and frozen statistics tolerate them.
    "training.batch_size": 2,
    "training.epochs": 8,
    "training.lr": 0.06,
    "training.schedule": "cosine",
    "training.warmup_iterations": 50,
    "training.clip_norm": 10.0,
}

# An epoch on COCO takes hours on one GPU, and spot machines are taken away.
PAPER_EXECUTION = {"training.checkpoint_minutes": 15.0}

# The detector and the image size are the defaults of Config.
PAPER_VOC: dict[str, Any] = {
    **PAPER_EXECUTION,
    "data.train_split": "trainval",
    "data.val_split": None,
    "data.test_split": "test",
    "training.schedule": "voc_12",
    "evaluation.metric": "voc07",
}

PAPER_COCO: dict[str, Any] = {
    **PAPER_EXECUTION,
    # COCO's val judges: the labels of its own test split are not published. A folder with a test split is
    # judged by that.
    "data.val_split": "auto",
    "data.test_split": "auto",
    "data.short_side": 800,
    "data.long_side": 1333,
    # The official code's λ for COCO, with or without a cascade; on VOC it is 1 (docs/detector.md, D2).
    "detector.lambda_reg": 0.5,
    "training.schedule": "coco_1x",
}

# A search needs images to choose by, apart from those that it is judged by where the data has such.
SEARCH_SPLITS: dict[str, dict[str, Any]] = {
    "voc": {"data.train_split": "train", "data.val_split": "val"},
    "coco": {"data.val_split": "val"},
    "yolo": {"data.val_split": "val"},
}


def recipe(profile: str, source: str, *, chooses: bool = False) -> dict[str, Any]:
    """Return the dotted changes of ``profile`` for data of ``source``.

    Args:
        profile: one of ``PROFILES``.
        source: 'digits', 'voc:DIR', 'coco:DIR' or 'yolo:DIR' (drcnn.data.formats.layouts finds a format).
        chooses: whether it is for a search, which needs a validation split.

    Raises:
        ConfigError: no such profile, or the paper's profile with the digits.
    """
    kind = source.partition(":")[0]
    recipes = {
        ("laptop", "digits"): LAPTOP_DIGITS,
        ("laptop", "voc"): LAPTOP_PHOTOS,
        ("laptop", "coco"): LAPTOP_PHOTOS,
        ("laptop", "yolo"): LAPTOP_PHOTOS,
        ("paper", "voc"): PAPER_VOC,
        ("paper", "coco"): PAPER_COCO,
        # The paper has no such data: COCO's detector and schedule.
        ("paper", "yolo"): PAPER_COCO,
    }
    if profile not in PROFILES:
        raise ConfigError(f"unknown profile {profile!r}; choose one of {', '.join(PROFILES)}")
    if kind not in ("digits", *SEARCH_SPLITS):
        raise ConfigError(f"unknown data {source!r}; expected digits, voc:DIR, coco:DIR or yolo:DIR")
    if (profile, kind) not in recipes:
        raise ConfigError("the paper profile trains on photographs: give --data voc:DIR or --data coco:DIR")
    splits = SEARCH_SPLITS[kind] if chooses and profile == "paper" else {}
    return {**recipes[profile, kind], **splits, "data.source": source}


def start_of(profile: str, source: str, backbone: str, width: float) -> dict[str, Any]:
    """Return the settings of ``START``: what a backbone of this width starts from on a profile and data.

    The recipe's own weights where there are such for the backbone; else a laptop trains it from scratch. On
    the paper's profile, and for a backbone of full width without weights of torchvision, the recipe's are
    returned all the same: somebody has to give a file.

    >>> start_of("laptop", "voc:DIR", "mobilenet_v2", 0.35)["detector.weights"]
    'none'
    """
    usual = dict(Config().with_changes(recipe(profile, source)).flat())
    start = {key: usual[key] for key in START}
    weights = start["detector.weights"]
    if (
        profile == "paper"
        or are_offered(weights, backbone, width)
        or (weights == "imagenet" and width == 1.0)
    ):
        return start
    return FROM_SCRATCH


def configured(profile: str, source: str, changes: Mapping[str, Any], *, chooses: bool = False) -> Config:
    """Return the recipe with ``changes``, which may also change what the backbone starts from.

    ``chooses`` as in ``recipe``.

    Raises:
        ConfigError: no such recipe, or a key or value is not allowed.
    """
    # The recipe comes first, because it must not undo the settings that a named variant brings.
    base = Config().with_changes(recipe(profile, source, chooses=chooses))
    values = {**dict(base.flat()), **expand(changes)}
    if values["training.init"] != "none":
        # A whole detector brings its backbone.
        return base.with_changes(changes)
    start = start_of(profile, source, values["detector.backbone"], values["detector.backbone_width"])
    return base.with_changes({**start, **changes})
