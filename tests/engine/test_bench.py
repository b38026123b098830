from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from drcnn.cli import main
from drcnn.detector.fused import conv_norm_act, linear_act
from drcnn.engine import bench, bench_loop, bench_scenes
from drcnn.engine.bench import BENCHED
from drcnn.engine.bench_limit import flops
from drcnn.engine.bench_metric import coco_sized
from drcnn.engine.bench_scenes import scenes
from drcnn.engine.detectron2_twin import has_detectron2

SMALL = ["detector.backbone=resnet18", "detector.fc_width=32", "detector.roi_samples=64"]
SMALL += ["detector.rpn_pre_nms_train=100", "detector.rpn_pre_nms_test=100"]


def test_scenes_hold_their_objects() -> None:
    batch = scenes(2, 224, 416)
    assert batch.images.shape == (2, 3, 224, 416)
    for image, boxes, labels in zip(batch.images, batch.boxes, batch.labels, strict=True):
        assert int((labels >= 0).sum()) >= 2
        for box in boxes[labels >= 0].long():
            x1, y1, x2, y2 = box.tolist()
            # Ink: not the even ground that a scene begins as.
            assert image[:, y1:y2, x1:x2].float().std() > 5


def test_bench_measures_every_detector_and_reuses_its_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_scenes, "TRAIN_IMAGES", 8)
    monkeypatch.setattr(bench_loop, "coco_sized", partial(coco_sized, 10, 40, 5, 20))
    arguments = ["bench", "--size", "192", "256", "--images", "1", "--repeats", "2", "--amp", "--json"]
    arguments += ["--output", str(tmp_path), "--set", *SMALL]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    peers = {"torchvision", "detectron2"} if has_detectron2() else {"torchvision"}
    assert set(result["detectors"]) == peers.union(BENCHED, (f"{name} bf16" for name in BENCHED))
    assert set(result["setting"]["detections that agree with fpn's"]) == peers
    assert {"loader", "evaluation", "metric"} <= set(result["loop"])
    for summary in result["detectors"].values():
        for kind in ("train", "inference"):
            assert summary[kind]["seconds"] > 0
            assert summary[kind]["limit_seconds"] > 0
            assert summary[kind]["images_per_s"] == pytest.approx(1 / summary[kind]["seconds"])
    for kind in ("train", "inference"):
        assert result["detectors"]["torchvision"][kind]["of_torchvision"] == 1
        assert result["detectors"]["fpn"][kind]["of_fpn"] == 1
    assert {"backbone", "FPN", "heads", "backward", "optimizer"} <= set(result["parts"]["fpn"]["train"])
    (weights,) = tmp_path.glob("*/last.safetensors")
    before = weights.stat().st_mtime_ns
    monkeypatch.setattr(bench, "BENCHED", ("fpn", "decoupled_cascade"))
    assert main([each for each in arguments if each != "--json"]) == 0
    printed = capsys.readouterr().out
    assert "decoupled_cascade bf16" in printed
    assert "forward pass of training" in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert weights.stat().st_mtime_ns == before


def test_fused_operators_count_like_the_layers() -> None:
    conv, linear = nn.Conv2d(4, 8, 3, padding=1), nn.Linear(6, 5)
    maps, rows = torch.randn(2, 4, 10, 10), torch.randn(3, 6)

    def run() -> None:
        conv_norm_act(conv, None, None, maps)
        conv_norm_act(conv, None, nn.ReLU(), maps, torch.zeros(2, 8, 10, 10))
        linear_act(linear, nn.ReLU(), rows)

    by_hand = 2 * (2 * 2 * 8 * 10 * 10 * 4 * 9) + 2 * 3 * 6 * 5
    assert flops(run) == by_hand
    with torch.no_grad():
        assert flops(run) == by_hand


def test_bench_refuses_what_torchvision_does_not_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drcnn.engine.bench.brief_weights", lambda *_: {})
    assert main(["bench", "--output", str(tmp_path), "--set", "detector.backbone=resnext101_32x4d"]) == 2
    assert "no backbone resnext101_32x4d" in capsys.readouterr().err
