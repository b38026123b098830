"""The command that makes the shipped weights: deterministic, and its file is what it judges."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from drcnn.detector.backbones import build_body
from drcnn.detector.weights import load_backbone
from drcnn.engine.pretrain import CONTEXT, SIDE, main, make_crops


def test_crops_are_squares_around_whole_digits() -> None:
    crops = make_crops(4, "train")
    assert crops.images.shape[1:] == (3, SIDE, SIDE)
    assert crops.images.dtype == torch.uint8
    assert len(crops.images) == len(crops.labels)
    assert 8 <= len(crops.labels) <= 32  # two to eight digits an image
    # Of the digit, the longer side fills what the context leaves: ink cannot be a few pixels of a corner.
    assert 1 / (1 + CONTEXT[1]) > 0.5


def test_training_and_held_out_crops_differ() -> None:
    train, val = make_crops(2, "train"), make_crops(2, "val")
    assert train.images.shape != val.images.shape or not torch.equal(train.images, val.images)


def test_the_command_makes_the_same_file_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        for name in ("one", "two"):
            torch.manual_seed(len(name))  # the caller's generator must not matter
            torch.rand(ord(name[0]))
            arguments = [
                "--width",
                "0.25",
                "--images",
                "16",
                "--epochs",
                "1",
                "--output",
                str(tmp_path / name),
            ]
            assert main(arguments) == 0
    finally:
        torch.set_num_threads(threads)
    one, two = (tmp_path / name / "mobilenet_v2_025.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert "held-out crops" in capsys.readouterr().out
    assert all(value.dtype != torch.float32 for value in load_file(one).values())
    load_backbone(build_body("mobilenet_v2", width=0.25, norm="frozen"), "mobilenet_v2", str(one))
