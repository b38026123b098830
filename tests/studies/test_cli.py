from __future__ import annotations

from pathlib import Path

import pytest
from study_helpers import assignments

from studies.run_study import main


def test_list_names_every_study_and_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("nms_sweep ") and "Table III" in line for line in lines)
    assert any(line.startswith("search ") for line in lines)


def test_dry_run_shows_the_trials_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "runs"
    arguments = ["nms_sweep", "--dry-run", "--seeds", "2", "--output", str(output), "--set", *assignments()]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "16 trials" in text
    assert "nms_reg=0.85 nms_cls=0.7 seed=2" in text
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["NAME", "--list"]),
        (["nms_swep"], ["nms_swep", "did you mean 'nms_sweep'"]),
        (["absent.yaml"], ["absent.yaml", "cannot read"]),
        (["nms_sweep", "--set", "detector.nms_tst=0.7"], ["nms_tst", "detector.nms_test"]),
        (["nms_sweep", "--set", "training.epochs=-1"], ["training.epochs", "-1"]),
        (["nms_sweep", "--set", "training.epochs"], ["KEY=VALUE"]),
        (["nms_sweep", "--set", "detector.nms_reg=0.9"], ["detector.nms_reg", "varies"]),
        (["nms_sweep", "--set", "data.source=voc:x"], ["--data"]),
        (["nms_sweep", "--set", "detector.weights=absent.pth"], ["detector.weights", "absent.pth"]),
        (["nms_sweep", "--data", "voc:absent"], ["absent"]),
        (["nms_sweep", "--data", "imagenet"], ["imagenet", "voc:DIR"]),
        (["nms_sweep", "--profile", "paper"], ["--data"]),
        (["nms_sweep", "--workers-per-trial", "0"], ["--workers-per-trial", "'0'"]),
        (["nms_sweep", "--workers-per-trial", "10000"], ["--workers-per-trial", "CPUs"]),
        (["nms_sweep", "--gpus-per-worker", "1.5"], ["--gpus-per-worker", "1.5"]),
        (["nms_sweep", "--gpus-per-worker", "1000"], ["--gpus-per-worker", "GPUs"]),
        (["nms_sweep", "--seeds", "x"], ["--seeds", "'x'"]),
        (["search", "--seeds", "2"], ["--seeds", "search"]),
        (["nms_sweep", "--fresch"], ["--fresch"]),
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


def test_an_output_that_is_a_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").write_text("")
    assert main(["nms_sweep", "--output", str(tmp_path / "runs")]) == 2
    assert "expected a folder" in capsys.readouterr().err
