"""What the driver makes of a trial's end, and a worker of its own failure."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from drcnn.data.annotations import DataError
from drcnn.engine.record import read_record
from studies.definition.plan import Plan, Trial, expand
from studies.definition.request import Machines
from studies.execution.faults import failures_recorded
from studies.execution.tuning import TuneRun, _FullDisk, _Watcher
from studies.transfer.store import ObjectStore, TrialStore
from studies.transfer.trial_folders import TrialFolders

STUDY = "title: t\nkind: grid\ngrid: {detector.nms_reg: [0.7, 0.8]}\n"


@pytest.fixture
def trial(make_plan: Callable[..., Plan]) -> Trial:
    return expand(make_plan(STUDY))[0]


class Away(ObjectStore):
    """A store that keeps what it is given, and gives nothing back."""

    def download(self, folder: Path, *, weights: bool = True) -> None:
        raise OSError("AWS Error SERVICE_UNAVAILABLE")


class Shown:
    """Stands for the table and for MLflow."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def show(self, trial: Trial, status: str, metrics: dict[str, float], why: str = "") -> None:
        self.said.append((status, why))

    def finish(self, trial: Trial) -> None: ...


@pytest.mark.parametrize("prunes", [False, True])
def test_a_trial_that_cannot_be_fetched_is_not_called_failed(
    trial: Trial, make_plan: Callable[..., Plan], tmp_path: Path, *, prunes: bool
) -> None:
    plan = make_plan(STUDY)
    node = ObjectStore(f"file://{tmp_path}/store", plan.output)
    trial.folder.mkdir(parents=True)
    (trial.folder / "result.json").write_text('{"status": "finished", "history": [], "seconds": 1}')
    node.upload(trial.folder)
    (trial.folder / "result.json").unlink()
    shown: Any = Shown()
    store = Away(f"file://{tmp_path}/store", plan.output)
    allocation: Any = None
    run = TuneRun(plan, Machines(), allocation, TrialFolders(store), shown, shown)
    watch = _Watcher(run, _FullDisk(), prunes=prunes, waits=False)
    ended: Any = SimpleNamespace(config={"trial": trial})
    watch.on_trial_complete(1, [], ended)
    ((status, why),) = shown.said
    assert status == "failed"
    assert "SERVICE_UNAVAILABLE" in why
    node.download(trial.folder)
    assert read_record(trial.folder).is_finished


@pytest.mark.parametrize(
    "said", ["CUDA error: uncorrectable ECC error encountered", "No CUDA GPUs are available"]
)
def test_a_broken_gpu_is_not_the_trials_failure(trial: Trial, said: str) -> None:
    with (
        pytest.raises(RuntimeError, match=f"on {socket.gethostname()}"),
        failures_recorded(trial, TrialFolders(TrialStore())),
    ):
        raise RuntimeError(said)
    assert not read_record(trial.folder).is_terminal


@pytest.mark.parametrize(
    ("error", "is_raised", "said"),
    [
        (torch.OutOfMemoryError("CUDA error: out of memory"), True, "lower training.batch_size"),
        (ValueError("a mistake"), True, "a mistake"),
        (DataError("image 7 is damaged"), False, "image 7 is damaged"),
    ],
)
def test_what_would_only_repeat_itself_is_recorded_with_its_host(
    trial: Trial, error: Exception, said: str, *, is_raised: bool
) -> None:
    def work() -> None:
        with failures_recorded(trial, TrialFolders(TrialStore())):
            raise error

    if is_raised:
        with pytest.raises(type(error)):
            work()
    else:
        work()
    found = json.loads((trial.folder / "error.json").read_text())
    assert said in found["message"]
    assert found["host"] == socket.gethostname()


def test_a_node_with_another_torch_is_named(trial: Trial) -> None:
    folders = TrialFolders(
        TrialStore(), versions={"python": "3", "ray": "2", "torch": "1", "torchvision": "0"}
    )
    with pytest.raises(OSError, match=rf"node {socket.gethostname()} has .*, but the driver"):
        folders.prepare_node(trial)


def test_a_full_disk_ends_the_study_and_fails_no_trial(
    trial: Trial, make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    shown: Any = Shown()
    allocation: Any = None
    run = TuneRun(make_plan(STUDY), Machines(), allocation, TrialFolders(TrialStore()), shown, shown)
    full_disk = _FullDisk()
    watch = _Watcher(run, full_disk, prunes=False, waits=False)
    ended: Any = SimpleNamespace(config={"trial": trial}, error_file=str(tmp_path / "error.txt"))
    (tmp_path / "error.txt").write_text(
        "Traceback:\n  File ...\ndrcnn.files.DiskFullError: no space left in /data\n\nDuring handling ...\n"
    )
    watch.on_trial_error(1, [], ended)
    assert full_disk.stop_all(), "the others would only wait as well"
    assert full_disk.message == "no space left in /data"
    assert shown.said == [("failed", "no space left in /data")]
    watch.on_trial_complete(1, [], ended)
    assert not read_record(trial.folder).is_terminal
