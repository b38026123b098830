"""What the driver makes of a trial's end, and a worker of its own failure."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset

from drcnn.data.annotations import DataError
from drcnn.engine.errors import TrainingDiverged
from drcnn.engine.record import read_record
from drcnn.engine.run_options import RunOptions
from drcnn.files import write_text
from studies.definition.plan import Plan, Trial, expand
from studies.definition.request import Machines
from studies.execution.trial_watcher import FullDisk, TuneRun, Watcher, full_disk_behind
from studies.resources.slots import Allocation
from studies.transfer.store import ObjectStore
from studies.transfer.trial_folders import TrialFolders
from studies.transfer.trial_store import TrialStore
from studies.worker.faults import failures_recorded, wait_before_attempt
from studies.worker.job import Job, WorkerGroup
from studies.worker.space_note import SpaceNote
from studies.worker.watch import reason_of_kill
from tests.damage import Filler, small_disk

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

    def say(self, line: str) -> None:
        self.said.append(("", line))

    def start(self, trial: Trial) -> None: ...

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
    run = TuneRun(plan, Machines(), Allocation(1, 1, 0.0), TrialFolders(store), shown, shown)
    watch = Watcher(run, FullDisk(), prunes=prunes, waits=False, attempts=3)
    ended: Any = SimpleNamespace(config={"trial": trial})
    watch.on_trial_complete(1, [], ended)
    ((status, why),) = shown.said
    assert status == "failed"
    assert "SERVICE_UNAVAILABLE" in why
    node.download(trial.folder)
    assert read_record(trial.folder).is_finished


MACHINE = [
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("No CUDA GPUs are available"),
    RuntimeError("Found no NVIDIA driver on your system"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED at CUDACachingAllocator.cpp"),
    RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
    RuntimeError("unable to allocate shared memory(shm) for file </torch_7>: No space left on device (28)"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    OSError(28, "No space left on device"),
    MemoryError(),
    pa.ArrowInvalid("File is too small"),
    json.JSONDecodeError("Expecting value", "", 0),
]
PROGRAM = [
    (torch.OutOfMemoryError("CUDA out of memory"), "lower training.batch_size"),
    (torch.AcceleratorError("CUDA error: device-side assert triggered"), "a label or an index"),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), "mat1 and mat2"),
    (NotImplementedError("no such variant"), "no such variant"),
    (ValueError("a mistake"), "a mistake"),
    (KeyError("a mistake"), "a mistake"),
]
RECORDED = [DataError("image 7 is damaged"), TrainingDiverged("loss_cls not finite in epoch 1 at step 2")]


@pytest.mark.parametrize("error", MACHINE, ids=repr)
def test_a_fault_of_the_machine_is_raised_with_its_node(trial: Trial, error: Exception) -> None:
    with (
        pytest.raises(RuntimeError, match=rf"{type(error).__name__}: .*\(on node {socket.gethostname()}, "),
        failures_recorded(trial, TrialFolders(TrialStore())),
    ):
        raise error
    assert not read_record(trial.folder).is_terminal


class Pids(Dataset[int]):
    """The process that loads it, as an item."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> int:
        time.sleep(0.01)
        return os.getpid()


@pytest.mark.faults
def test_a_killed_loader_process_is_the_machines_fault(trial: Trial) -> None:
    """For real: in torch's own words."""

    def load() -> None:
        with failures_recorded(trial, TrialFolders(TrialStore())):
            for pid in DataLoader(Pids(), batch_size=None, num_workers=1):
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(RuntimeError, match=r"DataLoader worker .*\(on node"):
        load()
    assert not read_record(trial.folder).is_terminal


@pytest.mark.faults
def test_a_disk_that_takes_no_more_is_the_machines_fault(trial: Trial, tmp_path: Path) -> None:
    """For real, by a limit on the size of files: in safetensors' own words."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with (
            pytest.raises(RuntimeError, match=r"SafetensorError: .*\(on node"),
            failures_recorded(trial, TrialFolders(TrialStore())),
        ):
            save_file({"weight": torch.zeros(1000)}, tmp_path / "last.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not read_record(trial.folder).is_terminal


def test_a_worker_that_lost_another_blames_no_node(trial: Trial) -> None:
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:537] Connection closed by peer [10.0.0.3]:1234")
    with (
        pytest.raises(RuntimeError, match=r"\(seen on "),
        failures_recorded(trial, TrialFolders(TrialStore())),
    ):
        raise lost


@pytest.mark.parametrize(
    ("error", "said", "is_raised"),
    [*((*each, True) for each in PROGRAM), *((each, str(each), False) for each in RECORDED)],
    ids=repr,
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


def test_attempts_wait_longer_each_time_but_not_for_ever() -> None:
    waits: list[float] = []
    for attempt in range(11):
        wait_before_attempt(attempt, waits.append)
    assert len(waits) == 10, "the first begins at once"
    assert waits[:3] == [2, 4, 8]
    assert waits == sorted(waits)
    assert max(waits) <= 120


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
    allocation = Allocation(1, 1, 0.0)
    run = TuneRun(make_plan(STUDY), Machines(), allocation, TrialFolders(TrialStore()), shown, shown)
    full_disk = FullDisk()
    watch = Watcher(run, full_disk, prunes=False, waits=False, attempts=3)
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


def test_that_trials_wait_for_space_is_said_once(
    trial: Trial, make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studies.execution.trial_watcher.LOOK_SECONDS", 0.0)
    lines: list[str] = []
    shown: Any = SimpleNamespace(say=lines.append)
    run = TuneRun(
        make_plan(STUDY), Machines(), Allocation(1, 1, 0.0), TrialFolders(TrialStore()), shown, shown
    )
    watch = Watcher(run, FullDisk(), prunes=False, waits=False, attempts=3)
    trial.folder.mkdir(parents=True, exist_ok=True)
    running: Any = SimpleNamespace(config={"trial": trial}, status="RUNNING")
    watch.on_step_end(1, [running])
    assert not lines
    for _ in range(2):
        SpaceNote(trial.folder)("no space left")
        watch.on_step_end(1, [running])
    (line,) = lines
    assert line.startswith(f"no space left in {trial.folder} (")
    assert f"{trial.name} waits for space, 5 minutes at most" in line


@pytest.mark.faults
def test_a_node_is_prepared_once_there_is_space(trial: Trial, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        waiting = replace(trial, folder=disk / "trial")
        waiting.folder.mkdir(parents=True)
        noted: list[bool] = []
        filler = Filler(disk)

        def free() -> None:
            noted.append((waiting.folder / ".waits-for-space").exists())
            filler.remove()

        threading.Timer(1.5, free).start()
        folders: Any = SimpleNamespace(
            forget_kills=lambda trial: None,
            prepare_node=lambda trial: write_text(trial.folder / "config.yaml", "x" * 100_000),
        )
        Job(folders, RunOptions(), WorkerGroup(1, 1, 0, ""), measures_latency=False).prepare_node(waiting, 0)
        assert noted == [True]
        assert (waiting.folder / "config.yaml").stat().st_size == 100_000


@pytest.mark.faults
def test_an_error_is_recorded_once_there_is_space(trial: Trial, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        failing = replace(trial, folder=disk / "trial")
        failing.folder.mkdir(parents=True)
        filler = Filler(disk)
        threading.Timer(1.5, filler.remove).start()
        with failures_recorded(failing, TrialFolders(TrialStore())):
            raise DataError("image 7 is damaged" + " again" * 10_000)
        assert read_record(failing.folder).is_failed


@pytest.mark.faults
def test_a_full_folder_of_rays_session_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune writes its own state there, and raises what it gets."""
    study = tmp_path / "runs" / "mine"
    with small_disk(tmp_path / "ray", megabytes=1) as session:
        monkeypatch.setattr("studies.execution.trial_watcher.ray.is_initialized", lambda: True)
        monkeypatch.setattr(
            "studies.execution.trial_watcher._get_ray_train_session_dir", lambda: str(session / "artifacts")
        )
        assert full_disk_behind(RuntimeError("another"), study) == ""
        (session / "artifacts").mkdir(exist_ok=True)
        filler = Filler(session)
        error = OSError(28, "No space left on device", f"{session}/artifacts/state.json")
        assert full_disk_behind(error, study).startswith(f"no space left in {session / 'artifacts'} ")
        filler.remove()
        line = "there was no space left to write to {}; free space there and run the same command again"
        assert full_disk_behind(error, study) == line.format(f"{session}/artifacts/state.json")


@pytest.mark.parametrize("starts", [True, False], ids=["begun", "lost before it began"])
@pytest.mark.parametrize("stored", [True, False], ids=["store", "shared folder"])
def test_what_killed_an_earlier_launch_is_no_reason_now(
    trial: Trial, make_plan: Callable[..., Plan], tmp_path: Path, *, starts: bool, stored: bool
) -> None:
    plan = make_plan(STUDY)
    store = ObjectStore(f"file://{tmp_path}/store", plan.output) if stored else TrialStore()
    trial.folder.mkdir(parents=True)
    (trial.folder / "killed-0-0.txt").write_text("its process 1 hung\n")
    store.upload(trial.folder)
    shown: Any = Shown()
    run = TuneRun(plan, Machines(), Allocation(1, 1, 0.0), TrialFolders(store), shown, shown)
    watch = Watcher(run, FullDisk(), prunes=False, waits=False, attempts=3)
    (tmp_path / "error.txt").write_text("Failure # 1\nRuntimeError: cuDNN error\n")
    lost: Any = SimpleNamespace(
        config={"trial": trial}, error_file=str(tmp_path / "error.txt"), num_failures=0
    )
    if starts:
        watch.on_trial_start(1, [], lost)
    watch.on_trial_recover(1, [], lost)
    assert shown.said[-1] == ("pending", "RuntimeError: cuDNN error; tried again (1 of 3)")
    store.download(trial.folder)
    assert reason_of_kill(trial.folder, 0) is None, "not from the store either"
    # What this launch's attempts leave stays.
    (trial.folder / "killed-1-0.txt").write_text("its process 2 hung\n")
    watch.on_trial_start(1, [], lost)
    watch.on_trial_recover(1, [], lost)
    assert shown.said[-1][1].startswith("its process 2 hung")


def test_a_nodes_own_notes_of_earlier_launches_go_before_its_first_attempt(
    trial: Trial, make_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studies.transfer.trial_folders._tables", lambda trial: [])
    monkeypatch.setattr("studies.transfer.trial_folders.unreadable_image", lambda data: None)
    folders = TrialFolders(ObjectStore(f"file://{tmp_path}/store", make_plan(STUDY).output))
    job = Job(folders, RunOptions(), WorkerGroup(1, 1, 0, ""), measures_latency=False)
    trial.folder.mkdir(parents=True)
    (trial.folder / "killed-0-0.txt").write_text("its process 1 hung\n")
    (trial.folder / "killed-1-0.txt").mkdir()
    job.prepare_node(trial, 0)
    assert not list(trial.folder.glob("killed-*.txt"))
    (trial.folder / "killed-0-0.txt").write_text("its process 2 hung\n")
    job.prepare_node(trial, 1)
    assert reason_of_kill(trial.folder, 0) == "its process 2 hung"
