"""The soak test of resuming tells what differs; and a short one finds nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.processes import Process, descendants, end
from benchmarks.soak import soak
from benchmarks.soak_differences import differences
from studies.record.tracking.addresses import default_uri


def test_what_differs_is_told(output: Path, finish: Callable[..., None], tmp_path: Path) -> None:
    calm = tmp_path / "calm"
    for folder in (calm, output):
        finish(folder / "trials" / "same", [0.1, 0.2])
        finish(folder / "trials" / "other", [0.1, 0.2 if folder == calm else 0.3])
        finish(folder / "trials" / "short", [0.1, 0.2] if folder == calm else [0.1])
    finish(calm / "trials" / "absent", [0.1])
    lines = list(differences(calm, output, 4, default_uri(output)))
    assert lines[0] == "4 and 3 trials, expected 4 and the same ones"
    assert "other: epoch 2: val/AP is 0.3, expected 0.2" in lines
    assert "short: 1 epochs, expected 2" in lines
    assert lines[-1] == "MLflow has no experiment soak"
    assert not [line for line in lines if line.startswith("same")]


def test_a_process_is_found_and_ended_with_what_it_started() -> None:
    sleep = "import time; print(1, flush=True); time.sleep(99)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleep!r}])"
    with subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (grandchild,) = descendants(process.pid)
        assert "time.sleep(99)" in grandchild.command
        parent = Process.of(process.pid)
        assert parent is not None
        # The parent first: it would end with its child.
        assert end([parent, grandchild]) == 2
        process.wait(timeout=30)
    # Nobody waits for the grandchild, whose end may take a moment.
    limit = time.monotonic() + 30
    while end([grandchild, parent]):
        assert time.monotonic() < limit
        time.sleep(0.1)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_processes_that_are_killed_change_nothing(tmp_path: Path) -> None:
    found = soak(4, 1, 1, tmp_path, has_server=False)
    assert found.differences == []
    assert sum(found.kills.values()) > 0
