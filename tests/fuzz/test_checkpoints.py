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
from drcnn.engine.record import Status, read_record, write_finished
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
    use_record(path.parent)


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


RESULT = {
    "status": "finished",
    "epoch": 1,
    "metrics": EPOCH,
    "history": [EPOCH, {**EPOCH, "epoch": 2.0}],
    "per_class": {"cup": 0.25, "bowl": float("nan")},
    "seconds": 12.5,
    "made_by": {"torch": "2.11", "workers": "1"},
    "notes": ["the checkpoint was damaged"],
}
LATENCY = {"perf/ms_per_image": 12.5, "device": "cpu"}


def use_record(folder: Path) -> None:
    """What studies and reports make of a trial's record."""
    record = read_record(folder)
    assert isinstance(record.status, Status)
    assert isinstance(record.epoch, int)
    assert all(isinstance(value, float) for epoch in record.history for value in epoch.values())
    assert all(isinstance(value, float) for value in (*record.metrics.values(), record.metric("val/AP")))
    assert all(isinstance(value, float) for value in record.per_class.values())
    assert all(isinstance(value, float | None) for value in (record.seconds, record.latency))
    texts = [*record.notes, *record.per_class, *record.made_by.values(), record.error or ""]
    assert not any(UNPRINTABLE.search(text) for text in texts)


@cases
@given(tree=tree_of({"result.json": RESULT, "latency.json": LATENCY, "error.json": {"message": "no"}}))
def test_records_with_other_values(tree: Any, tmp_path: Path) -> None:
    for name in ("result.json", "latency.json", "error.json"):
        (tmp_path / name).write_text(json.dumps(tree.get(name)))
    use_record(tmp_path)
    (tmp_path / "result.json").unlink()
    use_record(tmp_path)


@cases
@given(content=file_of(json.dumps(RESULT)))
def test_results_with_damaged_bytes(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(content)
    use_record(tmp_path)


@cases
@given(content=file_of(json.dumps({"message": "no", "traceback": "", "host": "a"})))
def test_errors_with_damaged_bytes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "error.json").write_bytes(content)
    use_record(tmp_path)
