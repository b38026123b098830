"""Damaged checkpoints: noticed whatever reads them, and training goes on all the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from drcnn import files
from drcnn.config import Config
from drcnn.data.prepare import PreparedData
from drcnn.engine import checkpoint
from drcnn.engine.checkpoint import TrainingState, load_detector, read_model, read_state, recover, save
from drcnn.engine.checkpoint_header import PREVIOUS
from drcnn.engine.errors import DamagedCheckpointError
from drcnn.engine.record import read_record
from drcnn.engine.run_options import RunOptions
from drcnn.engine.train import fit
from drcnn.files import DiskFullError
from tests.damage import DAMAGES, Filler, flip_bit, small_disk

pytestmark = pytest.mark.faults
LAST = "last.safetensors"


def write(folder: Path, epoch: int) -> Path:
    layer = nn.Linear(3, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    history = [{"epoch": float(number), "val/AP": 0.1 * number} for number in range(1, epoch + 1)]
    save(folder / LAST, layer, TrainingState("a: 1\n", ["cat"], epoch, history), optimizer)
    return folder / LAST


def test_no_flipped_bit_is_believed(tmp_path: Path) -> None:
    path = write(tmp_path, 2)
    whole, state, tensors = path.read_bytes(), read_state(path), read_model(path)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            found, found_state = read_model(path), read_state(path)
        except DamagedCheckpointError:
            continue
        assert found_state == state
        assert all(torch.equal(found[name], tensors[name]) for name in tensors), place


def test_a_wrong_weight_is_named_with_the_remedy(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny_checkpoint, tmp_path / LAST))
    load_detector(path)
    flip_bit(path, 0.9)
    with pytest.raises(
        DamagedCheckpointError, match=r"tensors do not match their checksum; .* delete the folder"
    ):
        load_detector(path)


def test_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    state, tensors = read_state(path), load_file(path)
    with safe_open(path, "np") as file:
        text = json.loads(file.metadata()["state"])
    del text["notes"]
    save_file(tensors, path, metadata={"state": json.dumps(text)})
    assert read_state(path) == state
    assert set(read_model(path)) == {"weight", "bias"}


@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage != "deleted"])
@pytest.mark.parametrize("are_both", [False, True])
def test_the_epoch_before_takes_over(damage: str, tmp_path: Path, *, are_both: bool) -> None:
    for epoch in (1, 2, 3):
        path = write(tmp_path, epoch)
    for name in (LAST, PREVIOUS) if are_both else (LAST,):
        DAMAGES[damage](tmp_path / name)
    (tmp_path / "result.json").write_text('{"status": "finished"}')
    lines = recover(tmp_path)
    assert lines[0].startswith(str(path))
    assert lines[0].endswith("kept as last.safetensors.damaged")
    assert not (tmp_path / "result.json").exists(), "it told of another training"
    if are_both:
        assert lines[-1] == f"{path} was damaged; training starts anew"
        assert not path.exists()
    else:
        assert lines[-1] == "training goes on from the checkpoint of epoch 2"
        assert read_state(path).epoch == 2
    assert (tmp_path / f"{LAST}.damaged").exists()


def test_a_kill_between_the_two_renamings_loses_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    path.rename(tmp_path / PREVIOUS)
    assert read_record(tmp_path).epoch == 1
    assert recover(tmp_path) == ["training goes on from the checkpoint of epoch 1"]
    assert read_state(path).epoch == 1


class Stop:
    def __init__(self, epochs: int = 99) -> None:
        self.epochs = epochs

    def __call__(self, metrics: dict[str, float]) -> None:
        if metrics["epoch"] == self.epochs:
            raise KeyboardInterrupt


def comparable(folder: Path) -> list[dict[str, float]]:
    history = read_record(folder).history
    return [{k: v for k, v in epoch.items() if not k.startswith("perf/")} for epoch in history]


def test_training_goes_on_and_ends_with_the_undisturbed_figures(
    tiny_config: Config, tiny_data: PreparedData, tmp_path: Path
) -> None:
    said: list[str] = []
    trial, copy = tmp_path / "trial", tmp_path / "copy"
    options = RunOptions(threads=1)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_config, tiny_data, trial, report=Stop(2), options=options)
    shutil.copytree(trial, copy)
    fit(tiny_config, tiny_data, trial, report=Stop(), options=options, say=said.append)
    assert said == []
    flip_bit(copy / LAST, 0.9)
    fit(tiny_config, tiny_data, copy, report=Stop(), options=options, say=said.append)
    assert comparable(copy) == comparable(trial)
    assert (copy / "detections.parquet").read_bytes() == (trial / "detections.parquet").read_bytes()
    assert said[-1] == "training goes on from the checkpoint of epoch 1, step 3 of the next"
    assert read_record(copy).notes == said
    files = {"config.yaml", LAST, "detections.parquet", "result.json"}
    assert {path.name for path in copy.iterdir()} == files, (
        "no checkpoint is kept beside that of a finished trial"
    )

    # Of a finished trial: what it was judged by is made again, from the same detector.
    for name in ("detections.parquet", "result.json"):
        flip_bit(copy / name)
    fit(tiny_config, tiny_data, copy, report=Stop(), options=options)
    assert comparable(copy) == comparable(trial)
    assert (copy / "detections.parquet").read_bytes() == (trial / "detections.parquet").read_bytes()
    assert checkpoint.recover(copy) == []


def test_a_full_disk_ends_training_with_the_old_checkpoint_and_it_goes_on_later(
    tiny_config: Config, tiny_data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SECONDS", 0.0)
    options, said = RunOptions(threads=1), []
    with small_disk(tmp_path / "disk", megabytes=100) as disk:
        fillers = []

        def fill(metrics: dict[str, float]) -> None:
            fillers.append(Filler(disk))

        with pytest.raises(DiskFullError, match=r"no space left in .* to write last.safetensors"):
            fit(tiny_config, tiny_data, disk / "trial", report=fill, options=options)
        fillers[0].remove()
        names = {path.name for path in (disk / "trial").iterdir()}
        assert names == {"config.yaml", LAST, PREVIOUS}, "nothing is half-written"
        assert read_record(disk / "trial").epoch == 1
        fit(tiny_config, tiny_data, disk / "trial", report=Stop(), options=options, say=said.append)
        assert read_record(disk / "trial").is_finished
    assert said == []
