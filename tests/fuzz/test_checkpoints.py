"""Damaged checkpoints and records of trials: an error that names the file, or what the file said."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from safetensors.torch import save, save_file

from drcnn.config import Config, ConfigError
from drcnn.data.annotations import DataError
from drcnn.engine.checkpoint import TrainingState, read_model, read_state
from drcnn.engine.errors import CheckpointError
from drcnn.engine.record import read_record, write_finished
from drcnn.engine.stored_trial import judge_trial, read_trial
from drcnn.plain_text import UNPRINTABLE
from drcnn.trained_model import find_model
from tests.engine.diagnosis_helpers import found, split
from tests.fuzz.mutations import bytes_of, cases, fails_only_with, file_of, tree_of

EPOCH = {"epoch": 1.0, "train/loss": 2.5, "val/AP": 0.25, "val/AP_large": float("nan")}
STATE = asdict(
    TrainingState(
        Config().to_yaml(),
        ["cup", "bowl"],
        1,
        [EPOCH],
        {"cup": 0.25},
        {"torch": "2.11", "workers": "1"},
        {"scale": 65536.0, "_growth_tracker": 3},
        {"val": {"images": "0" * 16, "annotations": "1" * 16}},
    )
)
TENSORS = {"model.a": torch.arange(4.0), "optimizer.a": torch.zeros(4)}


def use(path: Path) -> None:
    """What commands make of a checkpoint before they build its detector."""
    with fails_only_with(CheckpointError, ConfigError):
        state = read_state(path)
        assert not any(UNPRINTABLE.search(name) for name in state.classes)
        assert all(isinstance(value, int | float) for epoch in state.history for value in epoch.values())
        assert isinstance(state.epoch, int)
        Config.from_yaml(state.config)
        read_model(path)


@cases
@given(tree=tree_of({"state": STATE}))
def test_headers_with_other_values(tree: Any, tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    texts = {key: json.dumps(value) for key, value in tree.items() if isinstance(key, str)}
    save_file(TENSORS, path, metadata={key: text for key, text in texts.items() if key.isascii()})
    use(path)


@cases
@given(content=bytes_of(save(TENSORS, metadata={"state": json.dumps(STATE)})))
def test_checkpoints_with_damaged_bytes(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    path.write_bytes(content)
    use(path)


PUBLISHED = {"trial": "a", "name": "b", "checkpoint": "../trials/a/last.safetensors", "changes": {"seed": 1}}


@cases
@given(tree=tree_of({"file": PUBLISHED}))
def test_published_models(tree: Any, tmp_path: Path) -> None:
    (tmp_path / "published.json").write_text(json.dumps(tree.get("file")))
    with fails_only_with(ConfigError):
        find_model(str(tmp_path))


ANNOTATIONS = split([("cat", (10, 10, 40, 40)), ("dog", (50, 50, 90, 90))], [("owl", (0, 0, 50, 50))])
DETECTIONS = found(
    (0, "cat", 0.9, (10, 10, 40, 40)), (0, "dog", 0.5, (0, 0, 5, 5)), (1, "owl", 0.5, (0, 0, 9, 9))
)


def parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(DETECTIONS, sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


@pytest.fixture
def trial(tmp_path: Path) -> Path:
    folder = tmp_path / "trial"
    folder.mkdir()
    (folder / "config.yaml").write_text(Config().with_changes({"evaluation.metric": "coco"}).to_yaml())
    (folder / "detections.parquet").write_bytes(parquet())
    write_finished(folder, [EPOCH], {"cat": 0.25}, 1.0, {"torch": "2.11"})
    return folder


@cases
@given(content=bytes_of(parquet()))
def test_detections(trial: Path, content: bytes) -> None:
    (trial / "detections.parquet").write_bytes(content)
    with fails_only_with(DataError, ConfigError):
        judge_trial(read_trial(trial), ANNOTATIONS)


@cases
@given(content=file_of(json.dumps({"message": "no", "traceback": "", "host": "a"})))
def test_errors_with_damaged_bytes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "error.json").write_bytes(content)
    error = read_record(tmp_path).error
    assert error is None or isinstance(error, str)
