from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from study_helpers import assignments

from studies import run_study
from studies.definition.request import budget_text, parse_budget
from studies.run_study import main


def test_list_names_every_study_and_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(
        line.split()[:5] == ["nms_sweep", "24", "8", "×", "3"] and "Table III" in line for line in lines
    )
    assert any(line.split()[:8] == ["search", "28", "16", "×", "1", "+", "4", "×"] for line in lines)
    assert any(line.split()[0] == "table_10" and "12 × " in line and "Table X" in line for line in lines)
    assert main(["--list", "--profile", "paper"]) == 0
    assert "nms_sweep       8  8 × 1 " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("1h1s", 3601)]
)
def test_a_budget_is_a_time(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds
    assert parse_budget(budget_text(seconds)) == seconds


def test_dry_run_shows_the_trials_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "runs"
    arguments = ["nms_sweep", "--dry-run", "--seeds", "2", "--output", str(output), "--set", *assignments()]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "16 trials" in text
    assert "NMS_reg=0.85 NMS_cls=0.7 seed=2" in text
    assert "0 of 16 finished" in text
    assert re.search(r"Time left: about \d+ (s|min) with \d+ trials at once, 1 worker", text)
    assert "0 GPU hours" in text
    assert "a few steps measured now" in text
    assert not output.exists()


def test_dry_run_of_a_search_counts_its_confirmation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["search", "--dry-run", "--seeds", "2", "--output", str(tmp_path / "runs")]
    assert main([*arguments, "--set", *assignments()]) == 0
    text = capsys.readouterr().out
    assert "search: 16 trials" in text
    assert "0 of 16 ended" in text
    assert "No time is known" not in text
    assert "then, with 2 seeds each, the best 3 and" in text
    assert "Time left: about" in text


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["NAME", "--list"]),
        (["nms_swep"], ["nms_swep", "did you mean 'nms_sweep'"]),
        (["absent.yaml"], ["absent.yaml", "cannot read"]),
        (["nms_sweep", "--set", "detector.nms_tst=0.7"], ["nms_tst", "detector.nms_test"]),
        (["nms_sweep", "--margin", "0"], ["--margin", "AP points above 0", "'0'"]),
        (["report", "nms_sweep", "--margin", "half"], ["--margin", "AP points above 0", "'half'"]),
        (["nms_sweep", "--set", "training.epochs=-1"], ["training.epochs", "-1"]),
        (["nms_sweep", "--set", "training.epochs"], ["KEY=VALUE"]),
        (["nms_sweep", "--set", "detector.nms_reg=0.9"], ["detector.nms_reg", "varies"]),
        (
            ["table_07", "--set", "detector.backbone_width=1.0"],
            ["detector.backbone_width", "varies", "laptop"],
        ),
        (["table_10", "--set", "detector.rpn_post_nms_train=40"], ["rpn_post_nms_train", "varies", "laptop"]),
        (["nms_sweep", "--set", "data.source=voc:x"], ["--data"]),
        (["nms_sweep", "--set", "detector.weights=absent.pth"], ["detector.weights", "absent.pth"]),
        (["nms_sweep", "--weights", "mobilenet_v2=absent.pth"], ["detector.weights", "absent.pth"]),
        (["nms_sweep", "--weights", "absent.pth"], ["--weights", "BACKBONE=FILE"]),
        (["nms_sweep", "--weights", "resnet5=absent.pth"], ["--weights resnet5", "resnet50"]),
        (
            ["table_08", "--profile", "paper", "--data", "coco:absent"],
            ["table_08", "resnext101_32x4d decoupled", "--weights resnext101_32x4d=FILE", "OpenMMLab"],
        ),
        (["nms_sweep", "--data", "voc:absent"], ["absent"]),
        (["nms_sweep", "--data", "imagenet"], ["imagenet", "voc:DIR"]),
        (["nms_sweep", "--profile", "paper"], ["--data"]),
        (["nms_sweep", "--workers-per-trial", "0"], ["--workers-per-trial", "'0'"]),
        (["nms_sweep", "--workers-per-trial", "10000"], ["--workers-per-trial", "CPUs"]),
        (["nms_sweep", "--gpus-per-worker", "1.5"], ["--gpus-per-worker", "1.5"]),
        (["nms_sweep", "--gpus-per-worker", "1000"], ["--gpus-per-worker", "GPUs"]),
        (["nms_sweep", "--seeds", "x"], ["--seeds", "'x'"]),
        (["nms_sweep", "--budget", "x"], ["--budget", "'x'", "2h, 90m, 1h30m or 45s"]),
        (["nms_sweep", "--budget", "0m"], ["--budget", "'0m'"]),
        (["nms_sweep", "--budget", "1.5h"], ["--budget", "'1.5h'"]),
        (["nms_sweep", "--budget", "30m1h"], ["--budget", "'30m1h'"]),
        (["nms_sweep", "--budget", "20"], ["--budget", "'20'"]),
        (["nms_sweep", "--budget", ""], ["--budget", "''"]),
        (["pareto", "--seeds", "2"], ["--seeds", "search"]),
        (["pareto", "--workers-per-trial", "2"], ["--workers-per-trial 2", "perf/ms_per_image"]),
        (["nms_sweep", "--fresch"], ["--fresch"]),
        (["report"], ["report", "NAME"]),
        (["report", "nms_sweep"], ["nms_sweep", "no launch", "none"]),
        (["nms_sweep", "search"], ["one study at a time"]),
        (["--profile", "laptop", "report", "nms_sweep"], ["put 'report' first"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str], parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "runs"
    try:
        status = main([*arguments, "--output", str(output)])
    except SystemExit as leaving:
        status = int(str(leaving.code))
    error = capsys.readouterr().err
    assert status == 2
    assert error.count("\n") == 1, error
    assert all(part in error for part in parts), error
    assert not output.exists()


def test_help_has_examples_that_are_understood(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(run_study, "_run", lambda options: asked.append(options) or 0)
    monkeypatch.setattr(run_study, "_report", lambda options: asked.append(options) or 0)
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    # The rule itself, and not that the difference is small.
    assert "where the whole 95 % interval of their difference lies" in " ".join(text.split())
    examples = text[text.index("examples (") :].split("\n\n")[1].splitlines()
    assert len(examples) >= 5
    for line in examples:
        assert main(shlex.split(line.strip().partition("  ")[0])) == 0
    assert len(asked) == len(examples) - 1  # --list runs nothing


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("drcnn ")


def test_an_output_that_is_a_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").write_text("")
    assert main(["nms_sweep", "--output", str(tmp_path / "runs")]) == 2
    assert "expected a folder" in capsys.readouterr().err
