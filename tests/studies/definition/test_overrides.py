"""What a backbone starts from: recipe, study, --set and --weights, and what is asked for at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from drcnn.data.annotations import DataError
from drcnn.recipes import FROM_SCRATCH, START
from studies.definition.errors import StudyError
from studies.definition.overrides import Overrides, check_weights, parse_weights
from studies.definition.request import Request, resolve
from studies.definition.study_file import load, parse

IMAGENET = {"detector.weights": "imagenet", "detector.norm": "frozen", "detector.frozen_stages": 2}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Two weights files."""
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    return {name: str(tmp_path / name) for name in ("one", "two")}


def own(text: str, source: str, weights: dict[str, str] | None = None, **fixed: Any) -> Overrides:
    study = parse(f"title: t\n{text}", "mine.yaml")
    dotted = {key.replace("__", "."): value for key, value in fixed.items()}
    return Overrides.resolve(study, "laptop", source, dotted, weights)


def start(overrides: Overrides, **setting: Any) -> dict[str, Any]:
    """What a setting of the detector starts from."""
    config = overrides.config({f"detector.{key}": value for key, value in setting.items()}, 1)
    return {key: value for key, value in config.flat() if key in START}


GRID = "kind: grid\ngrid: {detector.nms_reg: [0.7]}\n"


@pytest.mark.parametrize(
    ("source", "backbone", "width", "expected"),
    [
        ("voc:x", "mobilenet_v2", 1.0, IMAGENET),
        ("coco:x", "resnet18", 1.0, IMAGENET),
        ("voc:x", "mobilenet_v2", 0.35, FROM_SCRATCH),
        ("digits", "resnet18", 1.0, FROM_SCRATCH),
        ("digits", "mobilenet_v2", 1.0, FROM_SCRATCH),
    ],
)
def test_a_laptops_backbone_starts_from_what_there_is(
    source: str, backbone: str, width: float, expected: dict[str, Any]
) -> None:
    text = "kind: grid\nrows: [{detector.backbone: resnet34, detector.backbone_width: 1.0}]\n"
    assert start(own(text, source), backbone=backbone, backbone_width=width) == expected
    # The same where the base of the study names it.
    base = f"base: {{detector.backbone: {backbone}, detector.backbone_width: {width}}}\n"
    assert start(own(base + GRID, source)) == expected


def test_on_the_papers_profile_all_start_from_imagenet() -> None:
    overrides = resolve(Request("table_08", profile="paper", source="coco:absent"))[1]
    assert {start.weights for start in overrides.starts()} == {"imagenet"}


def test_an_explicit_value_wins(files: dict[str, str]) -> None:
    narrow = {"backbone_width": 0.35}
    in_base = own("base: {detector.norm: batch}\n" + GRID, "voc:x")
    assert start(in_base, **narrow) == {**FROM_SCRATCH, "detector.norm": "batch"}
    fixed = own(GRID, "voc:x", detector__frozen_stages=1, detector__weights=files["one"])
    assert start(fixed) == {**IMAGENET, "detector.frozen_stages": 1, "detector.weights": files["one"]}
    assert start(own(GRID, "digits"), norm="batch")["detector.norm"] == "batch"


def test_weights_are_for_their_backbone_wherever_it_comes_from(files: dict[str, str]) -> None:
    text = "kind: grid\nrows: [{}, {detector.backbone: resnet18}, {detector.backbone: resnet34}]\n"
    overrides = own(text, "voc:x", {"mobilenet_v2": files["one"], "resnet34": files["two"]})
    found = {start.backbone: start.weights for start in overrides.starts()}
    assert found == {"mobilenet_v2": files["one"], "resnet18": "imagenet", "resnet34": files["two"]}
    check_weights("mine", overrides)
    assert start(overrides, backbone="resnet34")["detector.norm"] == "frozen"
    assert start(replace(overrides, weights={}), backbone="resnet34") == IMAGENET


@pytest.mark.parametrize("name", ["table_08", "table_09", "pareto"])
def test_missing_weights_are_asked_for(name: str, files: dict[str, str]) -> None:
    request = Request(name, profile="paper", source="coco:absent")
    with pytest.raises(StudyError, match=rf"{name}.* resnext101_32x4d .*--weights resnext101_32x4d=FILE"):
        check_weights(*resolve(request))
    check_weights(*resolve(replace(request, weights=(f"resnext101_32x4d={files['one']}",))))


def test_weights_that_nothing_starts_from_are_told(files: dict[str, str]) -> None:
    request = Request("table_07", weights=(f"resnet50={files['one']}",))
    with pytest.raises(StudyError, match=r"--weights resnet50: table_07 .*mobilenet_v2"):
        check_weights(*resolve(request))


@pytest.mark.parametrize(
    "asked", [{"assignments": ("detector.weights={}",)}, {"weights": ("mobilenet_v2={}",)}], ids=str
)
def test_a_file_starts_one_backbone(asked: dict[str, tuple[str]], files: dict[str, str]) -> None:
    given = {key: (value[0].format(files["one"]),) for key, value in asked.items()}
    with pytest.raises(StudyError, match=r"table_07: .*one fits one backbone.* width 0\.25 .* width 1 "):
        check_weights(*resolve(Request("table_07", source="voc:absent", **given)))  # type: ignore[arg-type]
    check_weights(*resolve(Request("nms_sweep", source="voc:absent", **given)))  # type: ignore[arg-type]


def test_weights_that_a_study_varies_are_its_own(files: dict[str, str]) -> None:
    study = parse("title: t\nkind: grid\ngrid: {detector.weights: [imagenet, none]}\n", "mine.yaml")
    with pytest.raises(StudyError, match="varies"):
        parse_weights([f"resnet50={files['one']}"], study)
    assert parse_weights([f"resnet50={files['one']}"], load("nms_sweep")[1]) == {"resnet50": files["one"]}


def test_a_folder_without_a_format_gets_it(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("0 0.5 0.5 1 1\n")
    (tmp_path / "classes.txt").write_text("cell\n")
    _, overrides = resolve(Request("nms_sweep", source=str(tmp_path)))
    assert overrides.base.data.source == f"yolo:{tmp_path}"
    assert overrides.base.data.short_side == 240
    (tmp_path / "a.xml").write_text("<annotation/>")
    with pytest.raises(DataError, match=r"could be VOC .* and YOLO"):
        resolve(Request("nms_sweep", source=str(tmp_path)))
