"""``benchmarks.exported`` compares the same detector in every engine: they find the same."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from benchmarks.exported import make_engines, measure
from drcnn.config import Config
from drcnn.data.annotations import Annotations
from drcnn.data.loader import make_loader
from drcnn.data.prepare import PreparedData
from drcnn.engine.evaluate import detections_table
from drcnn.engine.export import export_onnx
from tests.engine.conftest import write_checkpoint


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Where pytest listens, torch writes a trace of megabytes while it exports."""
    caplog.set_level(logging.CRITICAL, "torch.__trace")


@pytest.fixture
def config(tiny_config: Config) -> Config:
    # Features that differ from place to place: those of a random backbone hardly do.
    return tiny_config.with_changes(
        {"detector.weights": "digits", "detector.norm": "frozen", "detector.score_thr": 0.3}
    )


def test_every_engine_of_float32_finds_what_torch_finds(
    config: Config, tiny_data: PreparedData, tmp_path: Path
) -> None:
    checkpoint = write_checkpoint(tmp_path / "last.safetensors", config, tiny_data.classes)
    exported = tmp_path / "detector.onnx"
    export_onnx(checkpoint, config, exported)
    truth = Annotations.load(tiny_data.judged_table)
    batches = list(make_loader(tiny_data.judged_table, config.data, training=False, batch_size=1))
    engines = make_engines(checkpoint, config, exported, batches, threads=1)
    tables = {name: detections_table(truth, list(map(engine, batches))) for name, engine in engines.items()}
    expected = tables["torch float32"]
    assert len(expected) > len(batches)
    for name in ("onnxruntime float32", "OpenVINO float32"):
        found = tables[name]
        for column in ("image_id", "label"):
            assert found[column].equals(expected[column])
        for column, tolerance in {"score": 1e-4, "x1": 1e-2, "y1": 1e-2, "x2": 1e-2, "y2": 1e-2}.items():
            np.testing.assert_allclose(found[column], expected[column], atol=tolerance)


@pytest.mark.long
def test_the_figures_are_of_every_engine(
    config: Config, tiny_data: PreparedData, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    config = config.with_changes({"detector.weights": "none", "detector.norm": "group"})
    rows = measure(tiny_checkpoint, config, tmp_path, images=2, repeats=1, threads=1)
    assert {"torch float32", "torch bf16", "onnxruntime float32", "OpenVINO float32"} <= {
        row.engine for row in rows
    }
    assert all(row.milliseconds > 0 and 0 <= row.ap <= row.ap50 <= 1 for row in rows)
