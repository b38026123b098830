"""Closed terminals and schedulers, as ``drcnn train`` meets them."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from drcnn.recipes import recipe

SETTINGS = {
    **recipe("laptop", "digits"),
    "detector.backbone_width": 0.25,
    "detector.fpn_channels": 16,
    "detector.fc_width": 32,
    "detector.roi_samples": 16,
    "detector.rpn_pre_nms_train": 50,
    "data.train_images": 8,
    "data.val_images": 4,
    "data.test_images": 4,
    "training.batch_size": 4,
    "training.epochs": 200,
}


def train(folder: Path, *before: str, terminal: int | None = None) -> subprocess.Popen[bytes]:
    """``drcnn train`` after another program's words, in a session of its own."""
    words = [f"{key}={json.dumps(value)}" for key, value in SETTINGS.items() if value is not None]
    words = [word.replace('"', "") for word in words]
    command = [*before, sys.executable, "-m", "drcnn.cli", "train", "--output", str(folder), "--set", *words]
    where = subprocess.DEVNULL if terminal is None else terminal
    return subprocess.Popen(
        command, stdin=where, stdout=where, stderr=where if terminal else None, start_new_session=True
    )


def wait_for_an_epoch(process: subprocess.Popen[bytes], folder: Path) -> None:
    limit = time.monotonic() + 200
    while not (folder / "last.safetensors").exists():
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.1)


@pytest.mark.faults
@pytest.mark.usefixtures("hangs_up")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_training_ends_in_order(tmp_path: Path, number: int) -> None:
    process = train(tmp_path / "run")
    wait_for_an_epoch(process, tmp_path / "run")
    process.send_signal(number)
    assert process.wait(timeout=60) == 130


@pytest.mark.faults
@pytest.mark.usefixtures("hangs_up")
def test_training_ends_in_order_when_its_terminal_is_closed(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    # The terminal is that of its session, which is told when it is closed.
    process = train(tmp_path / "run", "setsid", "--ctty", "--wait", terminal=theirs)
    os.close(theirs)
    wait_for_an_epoch(process, tmp_path / "run")
    os.close(ours)
    assert process.wait(timeout=60) == 130


@pytest.mark.faults
def test_training_under_nohup_survives_its_terminal(tmp_path: Path) -> None:
    process = train(tmp_path / "run", "nohup")
    wait_for_an_epoch(process, tmp_path / "run")
    process.send_signal(signal.SIGHUP)
    time.sleep(3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130
