"""Two trainings of one folder at once; the other process is real."""

from __future__ import annotations

from pathlib import Path

import pytest

from drcnn.cli import main
from tests.test_locks import another
from tests.tiny_detector import TINY_DETECTOR

TINY = [
    *TINY_DETECTOR,
    "data.train_images=8",
    "data.val_images=4",
    "training.batch_size=4",
    "training.epochs=1",
]


def test_a_second_training_of_a_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "--output", str(tmp_path / "run"), "--set", *TINY]
    with another(tmp_path / "run") as process:
        assert main(command) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("drcnn: ")]
        assert line.startswith(
            f"drcnn: {tmp_path / 'run'} is being trained already: process {process.pid} on "
        )
        assert line.endswith("wait, end it, or give another --output")
        assert not (tmp_path / "run" / "config.yaml").exists()
    assert main(command) == 0
