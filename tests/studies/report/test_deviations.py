from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from drcnn.data.prepare import PreparedData
from drcnn.report.blocks import Cell, Table
from studies.definition.plan import Plan
from studies.definition.request import Request, resolve
from studies.definition.study_file import catalogue
from studies.definition.trial import Inputs
from studies.report.deviations import deviations
from studies.report.rendering import render_markdown

OWN = """
title: A narrow backbone
kind: grid
base: {detector.backbone: mobilenet_v2, detector.backbone_width: 0.5}
grid: {detector.nms_reg: [0.7, 0.85]}
"""


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., list[tuple[str, str, str]]]:
    """The rows below that of the data, without the meanings, of a plan as the command line makes it."""

    def of(name: str, data: str = "", **asked: object) -> list[tuple[str, str, str]]:
        return rows(plan_of(tmp_path, name, **asked), data)

    return of


def plan_of(folder: Path, name: str, **asked: object) -> Plan:
    request = Request(study=name, output=folder, **asked)  # type: ignore[arg-type]
    prepared = PreparedData("train.arrow", "val.arrow", None, ("0", "1"), "f" * 16, ())
    return Plan(*resolve(request), folder, Inputs(lambda _: prepared))


def rows(plan: Plan, data: str) -> list[tuple[str, str, str]]:
    table = deviations(plan, "", data)["table"]
    assert isinstance(table, Table)
    kept = []
    for name, paper, here, _ in table.rows[1:]:
        assert isinstance(name, Cell)
        assert isinstance(paper, str)
        assert isinstance(here, str)
        kept.append((f"`{name.text}` {name.remark}".strip(), paper, here))
    return kept


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_on_the_papers_profile_nothing_differs(name: str, told: Callable[..., list[tuple[str, ...]]]) -> None:
    is_coco = name in {"table_08", "table_09", "table_10", "table_11"}
    source, data = ("coco:absent", "COCO") if is_coco else ("voc:absent", "VOC07+12")
    # But for a search, which needs images to choose by.
    splits = {
        "search": [("`data.train_split`", "trainval", "train"), ("`data.val_split`", "none", "val")],
        "pareto": [("`data.train_split`", "trainval", "train"), ("`data.val_split`", "none", "val")],
    }
    assert told(name, data, profile="paper", source=source) == splits.get(name, [])


def test_a_laptop_differs_setting_by_setting(told: Callable[..., list[tuple[str, ...]]]) -> None:
    found = told("table_08", "COCO")
    # λ of one stage is the data's own; the variants that bring theirs have the paper's.
    assert [row for row in found if "lambda_reg" in row[0]] == [
        ("`detector.lambda_reg` decoupled", "0.5", "1")
    ]
    assert [row for row in found if "`detector.backbone" in row[0]] == [
        ("`detector.backbone`", "resnet50", "mobilenet_v2"),
        ("`detector.backbone`", "resnet101", "mobilenet_v2"),
        ("`detector.backbone`", "resnext101_32x4d", "resnet18"),
        ("`detector.backbone_width` resnet50", "1", "0.25"),
        ("`detector.backbone_width` resnet101", "1", "0.5"),
    ]
    assert ("`training.epochs`", "12", "3") in found


def test_what_a_study_varies_alike_is_no_deviation(told: Callable[..., list[tuple[str, ...]]]) -> None:
    found = told("table_10", "COCO")
    assert not [row for row in found if "stage" in row[0] and "frozen" not in row[0]]
    assert [row for row in found if "rpn_post_nms_train" in row[0]] == [
        ("`detector.rpn_post_nms_train` cascade_rcnn", "2000", "300"),
        ("`detector.rpn_post_nms_train` decoupled_cascade_cls", "1000", "150"),
    ]


def test_what_the_command_line_sets_is_a_deviation(told: Callable[..., list[tuple[str, ...]]]) -> None:
    asked = {"profile": "paper", "source": "voc:absent", "assignments": ("training.lr=0.01",)}
    assert told("table_03", "VOC07+12", **asked) == [("`training.lr`", "0.005", "0.01")]


def test_a_search_holds_each_of_its_choices(told: Callable[..., list[tuple[str, ...]]]) -> None:
    assert ("`detector.backbone`", "resnext101_32x4d", "resnet18") in told("pareto")


def test_a_study_of_ones_own_may_ask_for_what_the_papers_backbone_refuses(
    tmp_path: Path, told: Callable[..., list[tuple[str, ...]]]
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(OWN)
    found = told(str(path))
    assert not [row for row in found if row[0].startswith("`detector.backbone")]


def test_where_text_and_code_of_the_paper_differ_is_told(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "table_07", profile="paper", source="voc:absent")
    text = render_markdown("deviations.md.j2", deviations=deviations(plan, "", "VOC07+12"))
    notes = [line for line in text.splitlines() if line.startswith("- ")]
    assert "the code weighs them 1, 0.5, 0.25" in notes[0]
    assert "800 pixels" in notes[1]


DOUBLE_HEAD, CASCADE = "enlarged by 1.3", "mean of several classifiers is that of their logits"
NEWER, GIVEN = "resnext101_64x4d starts from torchvision's", "resnext101_32x4d starts from the file own.pth"
BASELINES, READING = "equal those of MMDetection's published models", "(docs/detector.md, D17)"
NO_FIGURE = "The paper has no figure of NMS_reg=0.7 NMS_cls=0.8 and NMS_reg=0.7 NMS_cls=0.9."
ALL = {DOUBLE_HEAD, CASCADE, NEWER, GIVEN, BASELINES, READING, NO_FIGURE}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("table_01", {READING}),
        ("table_03", set[str]()),
        ("table_04", {READING}),
        ("table_07", set[str]()),
        ("table_08", {BASELINES, GIVEN}),
        ("table_09", {NEWER, GIVEN}),
        ("table_10", {READING, CASCADE, BASELINES}),
        ("table_11", {READING, DOUBLE_HEAD}),
        ("nms_sweep", {NO_FIGURE}),
        ("pareto", {READING, DOUBLE_HEAD, CASCADE, GIVEN}),
    ],
)
def test_what_is_no_setting_is_told_where_it_matters(name: str, expected: set[str], tmp_path: Path) -> None:
    is_coco = name in {"table_08", "table_09", "table_10", "table_11", "pareto"}
    weights = ("resnext101_32x4d=somewhere/own.pth",) if GIVEN in expected else ()
    plan = plan_of(tmp_path, name, profile="paper", source="coco:x" if is_coco else "voc:x", weights=weights)
    there = "" if name == "pareto" else "COCO" if is_coco else "VOC07+12"
    text = render_markdown("deviations.md.j2", deviations=deviations(plan, "", there))
    assert {note for note in ALL if note in text} == expected
    # But a search has another validation split.
    assert ("All settings are the paper's" in text) == (name != "pareto")
    assert str(tmp_path) not in text
    assert "somewhere" not in text
