"""Parameters and FLOPs against the paper's printed columns and exact integers."""

from __future__ import annotations

import json

import pytest

from drcnn.cli import main
from drcnn.config import Config
from drcnn.detector.detector import build_detector
from drcnn.engine.complexity import Complexity, ComplexityRow, complexity, paper_rows
from drcnn.variants import DETECTORS


def count(**changes: object) -> Complexity:
    settings = {"detector.backbone": "resnet50"} | {
        f"detector.{key}": value for key, value in changes.items()
    }
    return complexity(Config().with_changes(settings).detector)


def parts(found: Complexity) -> dict[str, tuple[int, int]]:
    return {part.name: (part.flops, part.params) for part in found.parts}


@pytest.fixture(scope="module")
def rows() -> list[ComplexityRow]:
    return paper_rows()


def test_every_printed_parameter_count_is_reproduced(rows: list[ComplexityRow]) -> None:
    assert len(rows) == 26
    assert [(row.table, row.backbone, row.variant) for row in rows if not row.params_agree] == []


def test_every_printed_gflops_but_two_misprints_is_reproduced(rows: list[ComplexityRow]) -> None:
    differ = {(row.backbone, row.printed_gflops): row.gflops for row in rows if not row.gflops_agree}
    assert differ == {("resnet50", "1038.83"): "1038.43", ("resnet101", "1118.21"): "1118.30"}
    assert [row.gflops_agree for row in rows] == [not row.is_misprint for row in rows]


def test_parts_are_the_expected_integers() -> None:
    found = parts(count(variant="decoupled_cascade"))
    assert found["backbone"] == (88_029_401_600, 23_282_688)
    assert found["FPN"] == (60_610_534_400, 3_344_384)
    assert found["RPN"] == (52_873_875_505, 593_935)
    stack = (13_895_680_000, 13_895_680)
    assert found["stage 1 classifier"] == (stack[0] + 82_944_000, stack[1] + 83_025)
    assert found["stage 1 regressor"] == (stack[0] + 327_680_000, stack[1] + 328_000)
    assert (
        found["stage 2 regressor"] == found["stage 3 regressor"] == (stack[0] + 4_096_000, stack[1] + 4_100)
    )


def test_the_double_heads_branch_is_the_expected_integer() -> None:
    found = parts(count(variant="double_head"))["stage 1 regressor"]
    assert found == (274_199_296_000 + 327_680_000, 5_587_456 + 328_000)


def test_a_shared_trunk_is_counted_once() -> None:
    shared, unshared = count(variant="fpn"), count(variant="fpn_unshared")
    assert unshared.params - shared.params == 13_895_680
    assert parts(shared)["stage 1 shared layers"] == (13_895_680_000, 13_895_680)


@pytest.mark.parametrize("variant", DETECTORS)
def test_parts_hold_all_trainable_parameters_of_the_real_detector(variant: str) -> None:
    config = Config().with_changes(
        {
            "detector.backbone": "resnet18",
            "detector.variant": variant,
            "detector.fpn_channels": 16,
            "detector.fc_width": 32,
        }
    )
    detector = build_detector(config.detector, 7, pretrained=False)
    trained = sum(p.numel() for p in detector.parameters() if p.requires_grad)
    assert complexity(config.detector, classes=7, height=64, width=96).params == trained


def test_the_command_line_prints_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["complexity", "--set", "detector.variant=fpn", "detector.backbone=resnet50", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["flops"], printed["params"]) == (215_820_115_505, 41_527_712)
    assert sum(part["flops"] for part in printed["parts"]) == printed["flops"]


def test_the_table_names_the_misprints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["complexity", "--table"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("misprinted") == 2
    assert "24 of 26 GFLOPs, 26 parameters" in printed
