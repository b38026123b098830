"""The sections of a configuration: every setting and every default, in one place.

The defaults are the paper's Decoupled R-CNN on PASCAL VOC (the best row of Table III); sections and tables
named here are the paper's.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from drcnn.plain_text import UNPRINTABLE
from drcnn.split_shares import checked_shares
from drcnn.variants import VARIANTS

__all__ = ["DataConfig", "DetectorConfig", "EvaluationConfig", "Section", "TrainingConfig"]

IoU = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


# More than any machine holds, and 32 bits take it.
Count = Annotated[int, Field(gt=0, lt=2**31)]


class Section(BaseModel):
    """A group of settings: frozen, without unknown keys, infinite numbers and control characters."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _is_printable(cls, value: object) -> object:
        if isinstance(value, str) and UNPRINTABLE.search(value):
            raise ValueError("holds control characters; rename the file or folder")
        return value


def _known_variant(name: str) -> str:
    if name not in VARIANTS:
        raise ValueError(f"Input should be one of {', '.join(map(repr, VARIANTS))}")
    return name


class DetectorConfig(Section):
    """Architecture, sampling and inference of the detector (Sections III and IV)."""

    # Backbone and feature pyramid.
    backbone: Literal[
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnext101_32x4d",
        "resnext101_64x4d",
        "mobilenet_v2",
    ] = Field("resnet101", description="torchvision's network below the feature pyramid")
    backbone_width: float = Field(1.0, gt=0, le=4, description="channel multiplier, MobileNetV2 only")
    weights: str = Field(
        "imagenet",
        description="'imagenet', 'digits' (the package's, for the embedded data), 'none', or a file's path",
    )
    norm: Literal["frozen", "batch", "group"] = Field(
        "frozen", description="frozen: pretrained statistics, trained scale and bias; else from scratch"
    )
    frozen_stages: int = Field(1, ge=0, le=4, description="1 freezes the stem and C2, 2 also C3, ...")
    fpn_channels: Count = Field(256, description="channels of each map of the feature pyramid")

    # Region proposals.
    anchor_scale: float = Field(8.0, gt=0, description="anchor side = scale * stride")
    rpn_samples: Count = Field(256, description="anchors per image in the RPN loss")
    rpn_pre_nms_train: Count = Field(2000, description="candidates per level before NMS")
    rpn_pre_nms_test: Count = Field(1000, description="likewise at inference")
    rpn_post_nms_train: Count = Field(1000, description="proposals per image, in each list")
    rpn_post_nms_test: Count = Field(1000, description="proposals per image at inference")
    nms_cls: IoU = Field(0.7, description="NMS_cls: threshold of the classifier's proposals in training")
    nms_reg: IoU = Field(0.85, description="NMS_reg: threshold of the regressors' proposals in training")
    nms_test: IoU = Field(0.7, description="threshold of the one proposal list at inference")

    # Heads.
    variant: Annotated[str, AfterValidator(_known_variant)] = Field(
        "decoupled", description="how the heads are composed; see drcnn.variants for all named detectors"
    )
    fc_width: Count = Field(1024, description="units of each fully connected layer of the heads")
    roi_samples: Count = Field(512, description="RoIs per image and branch; also the losses' divisor")
    cls_positive_fraction: Fraction = Field(0.25, description="at most this share of the classifier's RoIs")
    stages: int = Field(1, ge=1, le=4, description="regression stages (Table IV)")
    stage_weights: tuple[float, float, float, float] = Field(
        (1.0, 0.5, 0.25, 0.125), description="weight of each stage's regression loss"
    )
    lambda_reg: float = Field(1.0, ge=0, description="λ of Eq. 8: weight of the regression losses (Table VI)")

    # Final detections.
    test_stage: int | None = Field(
        None,
        ge=1,
        le=4,
        description="box stage i of Table X: boxes after this many regressors; none: after all",
    )
    test_classifier: int | None = Field(
        None, ge=1, le=4, description="stage j of Table X whose classifier scores; none: the mean of all"
    )
    score_thr: float = Field(0.05, ge=0, lt=1, description="a detection scores more than this")
    nms_final: IoU = Field(0.5, description="NMS threshold of the detections, in each class")
    soft_nms: bool = Field(
        False, description="linear soft-NMS instead: overlap above nms_final lowers scores"
    )
    max_detections: Count = Field(100, description="per image, those of the highest scores")

    @model_validator(mode="after")
    def _frozen_parts_need_weights(self) -> Self:
        if self.weights == "none" and self.norm == "frozen":
            raise ValueError(
                "norm 'frozen' keeps pretrained statistics, but weights is 'none': "
                "give weights, or set detector.norm=batch or detector.norm=group"
            )
        if self.weights == "none" and self.frozen_stages > 0:
            raise ValueError(
                "frozen_stages keeps pretrained layers, but weights is 'none': "
                "give weights, or set detector.frozen_stages=0"
            )
        if self.backbone != "mobilenet_v2" and self.backbone_width != 1.0:
            raise ValueError(f"backbone_width applies to mobilenet_v2 only, not to {self.backbone}")
        if any(weight < 0 for weight in self.stage_weights):
            raise ValueError(f"stage_weights must not be negative, got {self.stage_weights}")
        return self

    @model_validator(mode="after")
    def _variant_agrees(self) -> Self:
        variant = VARIANTS[self.variant]
        if self.stages > variant.max_stages:
            raise ValueError(
                f"variant {self.variant} has at most {variant.max_stages} stage(s), got {self.stages}; "
                "set detector.stages, or detector.variant to one that cascades, such as decoupled"
            )
        if variant.proposal_lists == 1 and self.nms_cls != self.nms_reg:
            raise ValueError(
                f"variant {self.variant} trains on one list of proposals, but nms_cls is {self.nms_cls} and "
                f"nms_reg {self.nms_reg}: give both the same value"
            )
        box_stage = self.test_stage or self.stages
        if box_stage > self.stages:
            raise ValueError(f"test_stage {box_stage} is beyond the {self.stages} stages")
        if self.test_classifier is not None:
            classifiers = variant.classifiers(self.stages)
            last = min(classifiers, box_stage)
            if self.test_classifier > last:
                raise ValueError(
                    f"test_classifier {self.test_classifier}: {self.variant} has {classifiers} classifier(s) "
                    f"and the boxes are those of stage {box_stage}; give at most {last}"
                )
        return self


class DataConfig(Section):
    """Images and their sizes."""

    source: str = Field(
        "digits",
        description="'digits', 'voc:DIR', 'coco:DIR' or 'yolo:DIR' (several folders joined with '+')",
    )
    train_split: str = Field("train", description="VOC: a list in ImageSets/Main; COCO: instances_NAME*.json")
    val_split: str | None = Field(
        "val",
        description="to choose by, as a search does; none: nothing chooses; auto: 'val' where the data has a "
        "test split, else 'val' is the one to judge by",
    )
    test_split: str | None = Field(
        "auto", description="to judge by, once, after the last epoch; auto: 'test' where the data has it"
    )
    split: Annotated[str, AfterValidator(checked_shares)] = Field(
        "0.7/0.15/0.15",
        description="shares of train/val/test, or train/val, in a folder without splits; by images' content",
    )
    short_side: Count | None = Field(600, description="resize the shorter side to this; none keeps it")
    long_side: Count = Field(1000, description="... unless the longer side would exceed this")
    train_short_sides: tuple[int, ...] | None = Field(
        None, description="multi-scale training: short_side is drawn anew from these for each image"
    )
    flip: Fraction = Field(0.5, description="probability of a horizontal flip in training")
    train_images: Count | None = Field(None, description="only the first N; none takes all ('digits': 500)")
    val_images: Count | None = Field(None, description="likewise ('digits': 150)")
    test_images: Count | None = Field(None, description="likewise ('digits': 300)")
    on_bad_data: Literal["fail", "skip"] = Field(
        "fail", description="on an image that cannot be used: stop, or leave it out and say so"
    )

    @model_validator(mode="after")
    def _sides_agree(self) -> Self:
        if self.short_side is not None and self.long_side < self.short_side:
            raise ValueError(f"long_side {self.long_side} is below short_side {self.short_side}")
        sides = self.train_short_sides
        if sides is None:
            return self
        if self.short_side is None:
            raise ValueError(
                f"train_short_sides {sides} needs a short_side to evaluate at; set data.short_side"
            )
        if not sides or min(sides) < 1 or max(sides) > self.long_side:
            raise ValueError(
                f"train_short_sides {sides} must hold at least one number, each from 1 to "
                f"long_side {self.long_side}"
            )
        return self


class TrainingConfig(Section):
    """Optimiser and schedule (Section IV-A)."""

    epochs: Count = Field(12, description="passes over the training images")
    batch_size: Count = Field(8, description="images per step over all workers")
    lr: float = Field(0.005, gt=0, description="at the paper's 8 images per step; scaled by batch_size / 8")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(1e-4, ge=0, description="of all trained parameters")
    schedule: Literal["step", "cosine"] = Field(
        "step", description="or a name of drcnn.presets.SCHEDULES, which sets several settings at once"
    )
    milestones: tuple[int, ...] = Field(
        (9,), description="epochs after which a step schedule divides lr by 10; each below epochs"
    )
    warmup_iterations: int = Field(
        0, ge=0, lt=2**31, description="linear, from lr / 1000; never more than a third of all"
    )
    clip_norm: float | None = Field(None, gt=0, description="largest gradient norm; none: not clipped")
    amp: Literal["none", "bf16", "fp16"] = Field(
        "none", description="precision of the network; boxes stay float32"
    )
    init: str = Field(
        "none", description="start from a whole detector: a checkpoint's path, or 'coco' (torchvision's)"
    )
    checkpoint_minutes: float | None = Field(
        None,
        gt=0,
        description="also save within an epoch, this often; none: only before and after its evaluation",
    )

    @model_validator(mode="after")
    def _milestones_are_reached(self) -> Self:
        # Otherwise a run of fewer epochs would silently keep its first rate to the end.
        if self.schedule == "step" and not all(0 < epoch < self.epochs for epoch in self.milestones):
            example = [self.epochs * 3 // 4] if self.epochs > 1 else []
            raise ValueError(
                f"milestones {self.milestones} must lie between 0 and epochs {self.epochs}; set "
                f"training.milestones as well, for example {example}, or training.schedule=cosine"
            )
        return self


class EvaluationConfig(Section):
    """How detections are made and judged."""

    metric: Literal["coco", "voc07"] = Field(
        "coco", description="voc07: 11 recall points, as in the paper's tables on VOC"
    )
    every: Count | None = Field(
        1, description="epochs from one evaluation on val to the next; none: after the last one only"
    )
    amp: Literal["none", "bf16", "fp16"] = Field(
        "none", description="precision of the network; not that of training unless it is asked for here"
    )
