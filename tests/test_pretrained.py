"""The shipped weights: there, small, described by their card, and as good as it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from drcnn import pretrained
from drcnn.config import Config, ConfigError
from drcnn.detector.backbones import build_body
from drcnn.detector.detector import build_detector
from drcnn.detector.weights import load_backbone
from drcnn.engine.pretrain import accuracy, load, make_crops
from drcnn.pretrained import SHIPPED, shipped

CARD = Path(pretrained.__file__).with_name("README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("backbone", "width"), SHIPPED)
def test_a_body_loads_its_file_strictly(backbone: str, width: float) -> None:
    body = build_body(backbone, width=width, norm="frozen")
    before = {key: value.clone() for key, value in body.state_dict().items()}
    load_backbone(body, backbone, "digits", width)
    unchanged = [key for key, value in body.state_dict().items() if torch.equal(value, before[key])]
    assert unchanged == []


@pytest.mark.parametrize(
    ("backbone", "width"), [("mobilenet_v2", 1.0), ("mobilenet_v2", 0.75), ("resnet18", 1.0)]
)
def test_other_backbones_are_refused_in_one_line(backbone: str, width: float) -> None:
    with pytest.raises(
        ConfigError, match=rf"mobilenet_v2 of width 0\.5 .*not for {backbone} of width {width}"
    ) as error:
        shipped(backbone, width)
    assert "\n" not in str(error.value)


def test_a_detector_of_another_width_is_refused() -> None:
    config = Config().with_changes(
        {"detector.backbone": "mobilenet_v2", "detector.backbone_width": 1.0, "detector.weights": "digits"}
    )
    with pytest.raises(ConfigError, match=r"^detector\.weights = 'digits'"):
        build_detector(config.detector, classes=10)


def card_row(width: float) -> list[str]:
    (row,) = (
        line for line in CARD.splitlines() if line.startswith(f"| `mobilenet_v2_{round(100 * width):03d}")
    )
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.mark.parametrize(("backbone", "width"), SHIPPED)
def test_the_card_tells_size_and_accuracy(backbone: str, width: float) -> None:
    path = shipped(backbone, width)
    _, size, accuracy_of_all, _ = card_row(width)
    assert int(size.replace(",", "")) == path.stat().st_size
    # A tenth of the card's crops: within five standard errors.
    crops = make_crops(40, "val")
    expected = float(accuracy_of_all.rstrip("% ")) / 100
    tolerance = 5 * (expected * (1 - expected) / len(crops.labels)) ** 0.5
    assert accuracy(load(path, width), crops) == pytest.approx(expected, abs=tolerance)


def test_the_path_is_known_without_torch() -> None:
    code = (
        "import sys; from drcnn.pretrained import shipped; shipped('mobilenet_v2', 0.5); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
