"""The exported detector finds what ours finds: in torch for every variant, in onnxruntime and OpenVINO."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from drcnn.cli import main
from drcnn.config import Config, ConfigError
from drcnn.engine.checkpoint import load_detector
from drcnn.engine.export import export_onnx
from drcnn.engine.export_detector import ExportedDetector
from drcnn.engine.predict import Prediction, Predictor
from drcnn.variants import DETECTORS
from tests.engine.conftest import write_checkpoint

CLASSES = ("cup", "plate", "sponge")
# Of unequal sides, none a multiple of 32; the smallest has fewer anchors than candidates.
SIZES = [(96, 64), (75, 133), (33, 40)]

Outputs = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Where pytest listens, torch writes a trace of megabytes while it exports."""
    caplog.set_level(logging.CRITICAL, "torch.__trace")


def images() -> list[NDArray[np.uint8]]:
    """Smooth random pictures: in mere noise all cells look alike."""
    rng = np.random.default_rng(0)
    coarse = [torch.from_numpy(rng.uniform(0, 255, (1, 3, h // 8, w // 8))) for h, w in SIZES]
    resized = [
        torch.nn.functional.interpolate(one, size, mode="bilinear")
        for one, size in zip(coarse, SIZES, strict=True)
    ]
    return [one[0].permute(1, 2, 0).numpy().astype(np.uint8) for one in resized]


def checkpoint_of(detector: str, tiny_config: Config, folder: Path) -> tuple[Path, Config]:
    changes = {
        "detector.variant": detector,
        "detector.score_thr": 0.3,
        # Features that differ from place to place: those of a random backbone hardly do.
        "detector.weights": "digits",
        "detector.backbone_width": 0.25,
        "detector.norm": "frozen",
    }
    config = tiny_config.with_changes(changes)
    return write_checkpoint(folder / "last.safetensors", config, CLASSES), config


def require_same(found: Prediction, outputs: Outputs) -> None:
    """Of equal scores the order is free, so each detection is looked for among the others."""
    boxes, scores, labels = outputs
    names = np.array(CLASSES)[labels]
    assert len(found.scores) == len(scores) > 0
    assert (np.diff(scores) <= 0).all()
    is_same = (
        (np.array(found.labels)[:, None] == names)
        & (np.abs(found.scores[:, None] - scores) < 1e-4)
        & (np.abs(found.boxes[:, None] - boxes) < 1e-3).all(axis=2)
    )
    assert is_same.any(axis=0).all()
    assert is_same.any(axis=1).all()


def require_all_same(
    checkpoint: Path, run: Callable[[NDArray[np.uint8]], Sequence[NDArray[np.generic]]]
) -> None:
    for image in images():
        (found,) = Predictor(checkpoint).predict([image])
        require_same(found, tuple(run(image)))  # type: ignore[arg-type]


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_exported_form_detects_the_same_in_torch(
    detector: str, tiny_config: Config, tmp_path: Path
) -> None:
    checkpoint, _ = checkpoint_of(detector, tiny_config, tmp_path)
    exported = ExportedDetector(load_detector(checkpoint)[0]).eval()

    @torch.inference_mode()
    def run(image: NDArray[np.uint8]) -> list[NDArray[np.generic]]:
        return [output.numpy() for output in exported(torch.from_numpy(image))]

    require_all_same(checkpoint, run)


@pytest.mark.long
@pytest.mark.parametrize("detector", ["fpn", "decoupled", "cascade_rcnn", "double_head"])
def test_onnxruntime_finds_the_same_detections_in_images_of_any_size(
    detector: str, tiny_config: Config, tmp_path: Path
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    checkpoint, config = checkpoint_of(detector, tiny_config, tmp_path)
    path = tmp_path / "detector.onnx"
    export_onnx(checkpoint, config, path)
    assert {file.name for file in tmp_path.iterdir()} == {"detector.onnx", "last.safetensors"}
    session = runtime.InferenceSession(path)
    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["height", "width", 3])
    require_all_same(checkpoint, lambda pixels: session.run(["boxes", "scores", "labels"], {"image": pixels}))


@pytest.mark.slow
def test_the_command_writes_what_onnxruntime_and_openvino_read(
    tiny_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime, openvino = pytest.importorskip("onnxruntime"), pytest.importorskip("openvino")
    checkpoint, _ = checkpoint_of("decoupled_cascade", tiny_config, tmp_path)
    path = tmp_path / "new/detector.onnx"
    changes = ["--set", "data.short_side=64", "data.long_side=128"]
    assert main(["export", str(tmp_path), "--output", str(path), "--json", *changes]) == 0
    metadata = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads(metadata["classes"]) == list(CLASSES)
    assert json.loads(metadata["preprocessing"])["resize"]["short_side"] == 64
    import onnx

    stored = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert stored["classes"] == metadata["classes"]
    assert stored["preprocessing"] == metadata["preprocessing"]
    session = runtime.InferenceSession(path)
    require_all_same(checkpoint, lambda pixels: session.run(["boxes", "scores", "labels"], {"image": pixels}))
    # OpenVINO may compute in half precision where the processor has it.
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(openvino.Core().read_model(path), "CPU", exact)

    def run(image: NDArray[np.uint8]) -> list[NDArray[np.generic]]:
        result = model({"image": image})
        return [result[name] for name in ("boxes", "scores", "labels")]

    require_all_same(checkpoint, run)


def test_what_cannot_be_exported_is_said(
    tiny_config: Config,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    soft = tiny_config.with_changes({"detector.soft_nms": True})
    with pytest.raises(ConfigError, match=r"detector\.soft_nms has no operator in ONNX"):
        export_onnx(tiny_checkpoint, soft, tmp_path / "soft.onnx")
    assert main(["export", str(tiny_checkpoint), "--output", str(tmp_path)]) == 2
    assert r"give the path of a file that ends in .onnx" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        ConfigError, match=r"export needs the package onnxscript: pip install 'drcnn\[export\]'"
    ):
        export_onnx(tiny_checkpoint, tiny_config, tmp_path / "none.onnx")
    assert not list(tmp_path.iterdir())
