from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from drcnn.cli import main
from tests.tiny_detector import TINY_DETECTOR

TINY = [
    *TINY_DETECTOR,
    "data.train_images=8",
    "data.val_images=4",
    "data.test_images=6",
    "training.batch_size=4",
    "training.epochs=1",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of two settings on the same data, and one on other data."""
    folder = tmp_path_factory.mktemp("runs")
    for name, settings in {
        "one": [],
        "two": ["detector.nms_reg=0.55"],
        "other": ["data.test_images=5"],
    }.items():
        assert main(["train", "--output", str(folder / name), "--set", *TINY, *settings]) == 0
    return folder


def test_evaluate_writes_a_page_that_holds_all_it_shows(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(trained / "one"), "--output", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "6 images of digits" in told
    assert re.search(r"missed\W+\d", told)
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert page.count("data:image/png;base64,") >= 2 * 2 + 3
    assert "Errors by type" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    markdown = (tmp_path / "out" / "evaluation.md").read_text()
    for file in re.findall(r"\]\((\w+\.png)\)", markdown):
        assert (tmp_path / "out" / file).stat().st_size > 0
    capsys.readouterr()
    assert main(["evaluate", str(trained / "one"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == figures
    assert set(figures["errors"]) == {"class", "localisation", "both", "duplicate", "background", "missed"}


def test_compare_shows_settings_metrics_and_images(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = trained / "one", trained / "two" / "last.safetensors"
    before = sorted(trained.rglob("*"))
    assert main(["compare", str(one), str(two), "--output", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert re.search(r"detector\.nms_reg\W+[\d.]+\W+0\.55", told)
    assert "They tell of these trained detectors" in told
    assert re.search(r"(Which has|[AB] has) the higher AP|All figures are equal", told)
    assert "No setting that has an effect differs" not in told
    assert sorted(trained.rglob("*")) == before
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "Where one wins most" in page
    assert main(["compare", str(one), str(two), "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert main(["evaluate", str(one), "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert compared["metrics"]["AP"]["A"] == pytest.approx(evaluated["summary"]["AP"])
    assert main(["compare", str(one), str(one)]) == 0
    assert "No setting that has an effect differs. All figures are equal" in capsys.readouterr().out
    assert compared == json.loads((tmp_path / "out" / "comparison.json").read_text())


def test_compare_refuses_other_data_and_folders_in_one_line(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = str(trained / "one")
    for other, message in {
        trained / "other": "were judged on different data (images and annotations of test differ)",
        trained: "has no config.yaml and no detections.parquet",
        trained / "nowhere": "no such file or folder",
    }.items():
        assert main(["compare", one, str(other)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
