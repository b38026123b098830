"""What a launch leaves in an output folder when its request cannot be met."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drcnn.locks import HeldError
from studies.definition.errors import StudyError
from studies.record.output_folder import prepared_inputs, removed_after_bad_input, study_lock


def launch(output: Path, *, fetched: str = "") -> None:
    """A launch that makes what launches make, and then finds that it cannot go on."""
    with removed_after_bad_input(output), prepared_inputs(output, is_kept=True):
        (output / "data" / "table.arrow").touch()
        if fetched:
            (output / "data" / fetched).mkdir()
            (output / "data" / fetched / "image.jpg").touch()
        (output / "study").mkdir()
        (output / "study" / "request.json").touch()
        (output / "mlflow.db").touch()
        raise StudyError("a node is missing")


def files(output: Path) -> set[str]:
    found = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    return found - {"data/.in_use"}


def test_bad_input_leaves_no_new_folder(tmp_path: Path) -> None:
    with pytest.raises(StudyError):
        launch(tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["VOC2007-0123456789ab", ".VOC2007-0123456789ab.draft"])
def test_fetched_data_stay(tmp_path: Path, name: str) -> None:
    output = tmp_path / "runs"
    with pytest.raises(StudyError):
        launch(output, fetched=name)
    assert files(output) == {f"data/{name}/image.jpg"}


def test_a_folder_that_was_there_is_left_alone(tmp_path: Path) -> None:
    output = tmp_path / "runs"
    output.mkdir()
    with pytest.raises(StudyError):
        launch(output)
    assert files(output) == {"data/table.arrow", "study/request.json", "mlflow.db"}


def test_what_another_launch_uses_stays(tmp_path: Path) -> None:
    """It has come after this one had made the folder, and has trained nothing yet."""
    output = tmp_path / "runs"

    def fail_beside(other: ExitStack) -> None:
        with removed_after_bad_input(output):
            other.enter_context(prepared_inputs(output, is_kept=True))
            (output / "other").mkdir()
            (output / "other" / ".lock").touch()
            raise StudyError("a node is missing")

    with ExitStack() as other:
        with pytest.raises(StudyError):
            fail_beside(other)
        assert files(output) == {"other/.lock"}


HOLD = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from studies.record.output_folder import study_lock
output = Path(sys.argv[1])
with study_lock(SimpleNamespace(name="mine", output=output, folder=output / "mine")):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.faults
def test_a_second_launch_is_told_who_runs_the_study_until_that_one_is_killed(tmp_path: Path) -> None:
    plan: Any = SimpleNamespace(name="mine", output=tmp_path, folder=tmp_path / "mine")
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    who = f"process {first.pid} on {socket.gethostname()} since "
    with pytest.raises(HeldError, match=f"mine is running already in {tmp_path}: {who}"), study_lock(plan):
        pass
    first.kill()
    first.communicate()
    with study_lock(plan):
        pass


def test_folders_in_the_places_of_lock_files_are_put_aside(tmp_path: Path) -> None:
    plan: Any = SimpleNamespace(name="mine", output=tmp_path, folder=tmp_path / "mine")
    for place in (tmp_path / "mine" / ".lock", tmp_path / "data" / ".in_use"):
        (place / "inside").mkdir(parents=True)
    with prepared_inputs(tmp_path, is_kept=True), study_lock(plan):
        assert (tmp_path / "data" / ".in_use").is_file()
    for place in (tmp_path / "mine", tmp_path / "data"):
        assert len(list(place.glob(".*.damaged/inside"))) == 1
