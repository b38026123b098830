"""A launch that is killed, or asked to end, at whatever time: the same command completes the study."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from launch_helpers import Launch, results, runs, steps, write_study
from study_helpers import assignments

from benchmarks.processes import descendants, end
from drcnn.engine.record import read_record

EPOCHS = 8


@pytest.mark.faults
@pytest.mark.slow
def test_whenever_a_launch_ends_the_same_command_completes_it(output: Path) -> None:
    study = write_study(output, "title: Mine\nkind: grid\ngrid: {detector.nms_reg: [0.7]}\n")
    command = [study, "--set", *assignments(training__epochs=EPOCHS, data__train_images=16)]

    def epochs() -> int:
        return max((len(read_record(folder).history) for folder in output.glob("trials/*")), default=0)

    # In its first second, and while its databases are made.
    launch = Launch(output, *command)
    time.sleep(0.7)
    launch.process.kill()
    launch.end()
    launch = Launch(output, *command)
    launch.wait_until(lambda: any(output.glob("*mlflow.db*")))
    launch.process.kill()
    launch.end()

    # As a scheduler ends it, in the midst of training.
    launch = Launch(output, *command)
    launch.wait_until(lambda: epochs() >= 1)
    launch.process.send_signal(signal.SIGTERM)
    status, _, err = launch.end()
    assert status == 130, err
    assert "run the same command again to resume" in err
    assert "Traceback" not in err

    # As somebody impatient does.
    launch = Launch(output, *command)
    done = epochs()
    launch.wait_until(lambda: epochs() > done)
    launch.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    if launch.process.poll() is None:
        launch.process.send_signal(signal.SIGINT)
    status, _, err = launch.end()
    assert status not in (0, 1), err
    assert "Traceback" not in err

    # While it reports: trials are finished, the report is not there.
    report = output / "mine" / "report.html"
    launch = Launch(output, *command)
    launch.wait_until(lambda: (output / "mine" / "results.parquet").exists() and bool(results(output)))
    os.kill(launch.process.pid, signal.SIGKILL)
    launch.end()
    assert not report.exists()

    trained = results(output)
    status, out, err = Launch(output, *command).end()
    assert status == 0, err
    assert "0 trained, 1 reused, 0 failed" in out
    assert results(output) == trained
    assert report.exists()
    parents, children = runs(output, "mine")
    assert [run.info.status for run in (*parents, *children)] == ["FINISHED", "FINISHED"]
    assert steps(output, children[0]) == list(range(1, EPOCHS + 1))


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("name", ["raylet/raylet", "gcs_server"])
def test_a_ray_that_dies_ends_the_launch_and_costs_no_epoch(output: Path, name: str) -> None:
    study = write_study(output, "title: Mine\nkind: grid\ngrid: {detector.nms_reg: [0.7]}\n")
    command = [study, "--set", *assignments(training__epochs=400, data__train_images=16)]

    def history() -> list[dict[str, float]]:
        return next((read_record(folder).history for folder in output.glob("trials/*")), [])

    launch = Launch(output, *command)
    launch.wait_until(lambda: len(history()) >= 2)
    (process,) = [each for each in descendants(launch.process.pid) if name in each.command.split()[0]]
    assert end([process]) == 1
    status, _, err = launch.end()
    assert status == 130, err
    assert "a process of Ray on this machine has died" in err
    assert "run the same command again to resume" in err
    before = history()
    launch = Launch(output, *command)
    launch.wait_until(lambda: len(history()) > len(before))
    launch.process.send_signal(signal.SIGTERM)
    status, _, err = launch.end()
    assert status == 130, err
    assert history()[: len(before)] == before
    parents, children = runs(output, "mine")
    assert len(parents) == len(children) == 1
