"""Checkpoints that the store has do not fill a node's disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

from studies.transfer.node_disk import drop_idle_weights, drop_weights
from studies.transfer.store import ObjectStore
from studies.transfer.trial_store import TrialStore

NAMES = ("last.safetensors", ".previous-last.safetensors")


def begin(output: Path, name: str) -> Path:
    """A trial that was saved twice here, an hour ago."""
    folder = output / "trials" / name
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    for checkpoint in NAMES:
        (folder / checkpoint).write_text("weights")
        os.utime(folder / checkpoint, (1e9, 1e9))
    return folder


def weights(folder: Path) -> list[str]:
    return [name for name in NAMES if (folder / name).exists()]


@pytest.fixture
def store(uri: str, tmp_path: Path) -> ObjectStore:
    return ObjectStore(uri, tmp_path / "runs")


def test_weights_go_once_they_are_stored_and_come_back_when_asked_for(
    store: ObjectStore, tmp_path: Path
) -> None:
    folder = begin(tmp_path / "runs", "one")
    assert drop_weights(store, folder) == 0
    assert weights(folder) == [*NAMES], "the only copy"
    store.upload(folder)
    assert drop_weights(store, folder) == 2 * len("weights")
    assert weights(folder) == []
    assert (folder / "result.json").exists()
    # What is no longer here is not taken for deleted by a later upload.
    store.upload(folder)
    store.download(folder)
    assert weights(folder) == ["last.safetensors"]


def test_where_output_is_shared_nothing_is_deleted(tmp_path: Path) -> None:
    folder = begin(tmp_path / "runs", "one")
    assert drop_weights(TrialStore(), folder) == 0
    assert drop_idle_weights(TrialStore(), folder.parent, set()) == 0
    assert weights(folder) == [*NAMES]


def test_only_weights_that_nobody_works_with_are_swept(store: ObjectStore, tmp_path: Path) -> None:
    names = ("idle", "needed", "trained", "evaluated", "fresh", "unsaved")
    idle, needed, trained, evaluated, fresh, unsaved = (begin(tmp_path / "runs", name) for name in names)
    for folder in (idle, needed, trained, evaluated, fresh):
        store.upload(folder)
    os.utime(fresh / "last.safetensors")
    evaluation = evaluated / "evaluations" / "one"
    evaluation.mkdir(parents=True)
    with FileLock(trained / ".lock"), FileLock(evaluation / ".lock"):
        assert drop_idle_weights(store, idle.parent, {needed}) == 2 * len("weights")
    assert weights(idle) == []
    for folder in (needed, trained, evaluated, fresh, unsaved):
        assert weights(folder) == [*NAMES], folder.name
