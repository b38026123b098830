from __future__ import annotations

import json
from pathlib import Path

import pytest

from drcnn.config import ConfigError
from drcnn.trained_model import find_model


def study(output: Path, checkpoint: str = "../trials/1/last.safetensors") -> Path:
    trial = output / "trials/1"
    trial.mkdir(parents=True)
    (trial / "last.safetensors").touch()
    (output / "sweep").mkdir()
    content = {"trial": "1", "checkpoint": checkpoint, "changes": {"detector.nms_final": 0.4}}
    (output / "sweep/published.json").write_text(json.dumps(content))
    return output / "sweep"


def test_a_file_a_trial_and_a_study_name_their_checkpoint(tmp_path: Path) -> None:
    folder, checkpoint = study(tmp_path), tmp_path / "trials/1/last.safetensors"
    assert find_model(str(checkpoint)).checkpoint == checkpoint
    assert find_model(str(tmp_path / "trials/1")).checkpoint == checkpoint
    found = find_model(str(folder))
    assert found.checkpoint.resolve() == checkpoint
    assert found.changes == {"detector.nms_final": 0.4}


def test_an_output_folder_that_was_moved_keeps_its_model(tmp_path: Path) -> None:
    study(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert find_model(str(tmp_path / "there/sweep")).checkpoint.is_file()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (None, r"no trained model; expected a folder with last\.safetensors"),
        ("config.yaml", "its training has not ended an epoch yet"),
        ("request.json", "no trial of this study has finished yet"),
        ("sweep/published.json", r"it holds the studies sweep: give .*model/sweep"),
    ],
)
def test_a_folder_without_a_model_says_why(tmp_path: Path, file: str | None, message: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    if file:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).touch()
    with pytest.raises(ConfigError, match=message):
        find_model(str(folder))


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone: no such file or folder; expected a checkpoint"):
        find_model(str(tmp_path / "gone"))
    folder = study(tmp_path, "../trials/2/last.safetensors")
    with pytest.raises(ConfigError, match=r"trials/2/last\.safetensors is not here; where .* --storage"):
        find_model(str(folder))
    (folder / "published.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"published\.json: cannot be read \(DamagedFileError"):
        find_model(str(folder))
