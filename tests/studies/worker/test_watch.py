"""A process that hangs, and one that is slow; both real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from studies.definition.plan import Plan, expand
from studies.transfer.store import ObjectStore
from studies.transfer.trial_folders import TrialFolders
from studies.worker import companion
from studies.worker.watch import reason_of_kill

PROGRAM = """
import sys, time
from pathlib import Path
from studies.worker.watch import Patience, Watch

def steps(watch, count, seconds):
    for number in range(count):
        watch.beat(True)
        time.sleep(seconds)
    watch.beat(False)

def sleep_for_ever():
    time.sleep(1000)

with Watch(Path(sys.argv[1]), 0, 0, Patience({within}, {between})) as watch:
    {work}
print("done")
"""


def start(folder: Path, work: str, within: float = 1.0, between: float = 6.0) -> subprocess.Popen[str]:
    """A process that watches itself, and works."""
    program = PROGRAM.format(work=work.replace("\n", "\n    "), within=within, between=between)
    return subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)


def wait(process: subprocess.Popen[str]) -> str | None:
    return process.communicate(timeout=100)[0]


@pytest.mark.faults
def test_a_process_that_waits_for_ever_is_killed_and_leaves_its_stack(tmp_path: Path) -> None:
    process = start(tmp_path, "steps(watch, 3, 0.1)\nwatch.beat(True)\nsleep_for_ever()", between=1.0)
    wait(process)
    assert process.returncode == -signal.SIGKILL
    reason = reason_of_kill(tmp_path, 0) or ""
    assert reason.startswith("no batch for ")
    assert f"its process {process.pid} hung on " in reason
    assert str(tmp_path / "killed-0-0.txt") in reason
    assert "in sleep_for_ever" in (tmp_path / "killed-0-0.txt").read_text()
    assert reason_of_kill(tmp_path, 1) is None, "another attempt has another reason"


@pytest.mark.faults
def test_a_stopped_process_is_named_as_such(tmp_path: Path) -> None:
    process = start(tmp_path, "steps(watch, 200, 0.1)")
    time.sleep(3)
    process.send_signal(signal.SIGSTOP)
    wait(process)
    assert process.returncode == -signal.SIGKILL
    assert f"its process {process.pid} was stopped (SIGSTOP)" in (reason_of_kill(tmp_path, 0) or "")
    assert "in steps" in (tmp_path / "killed-0-0.txt").read_text()


@pytest.mark.faults
def test_who_waits_for_others_is_killed_only_if_stopped(tmp_path: Path) -> None:
    process = start(tmp_path, "with watch.paused():\n    time.sleep(15)\ntime.sleep(60)", between=2.0)
    time.sleep(10)
    assert process.poll() is None
    process.send_signal(signal.SIGSTOP)
    wait(process)
    assert f"its process {process.pid} was stopped (SIGSTOP)" in (reason_of_kill(tmp_path, 0) or "")


@pytest.mark.faults
def test_a_stopped_loader_is_named_and_dies_too(tmp_path: Path) -> None:
    work = """import os
steps(watch, 3, 0.1)
watch.beat(True)
child = os.fork()
if child == 0:
    sleep_for_ever()
Path(sys.argv[1], "child").write_text(str(child))
time.sleep(0.5)
os.kill(child, 19)
os.waitpid(child, 0)"""
    process = start(tmp_path, work, between=2.0)
    wait(process)
    child = int((tmp_path / "child").read_text())
    assert f"its loader process {child} was stopped (SIGSTOP)" in (reason_of_kill(tmp_path, 0) or "")
    assert (tmp_path / "killed-0-0.txt").read_text().count("in sleep_for_ever") == 1
    limit = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < limit:
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists()


@pytest.mark.parametrize(
    "work",
    [
        # A first batch that takes long, others that are slow as ever, an evaluation.
        "watch.beat(True)\ntime.sleep(4)\nsteps(watch, 3, 0.3)\ntime.sleep(4)\nsteps(watch, 2, 0.1)",
        # The driver is busy with something else.
        "steps(watch, 3, 0.1)\nwith watch.paused():\n    time.sleep(9)",
        "raise SystemExit(print('done'))",
    ],
    ids=["slow", "reporting", "ended"],
)
def test_slow_is_not_hung(tmp_path: Path, work: str) -> None:
    process = start(tmp_path, work)
    out = wait(process)
    assert process.returncode == 0
    assert "done" in (out or "")
    assert not list(tmp_path.iterdir())


@pytest.mark.faults
def test_a_sleeping_machine_is_not_a_hung_one(tmp_path: Path) -> None:
    """Process and companion sleep together, as on a laptop whose lid is closed."""
    process = start(tmp_path, "steps(watch, 20, 0.1)", within=2.0)
    time.sleep(1.5)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (*map(int, children), process.pid):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(5)
    for pid in (*map(int, children), process.pid):
        os.kill(pid, signal.SIGCONT)
    assert "done" in (wait(process) or "")
    assert not list(tmp_path.iterdir())


def test_of_several_workers_the_one_that_was_stopped_is_named(tmp_path: Path) -> None:
    (tmp_path / "killed-0-0.txt").write_text("its process 1 hung\n\nstacks")
    (tmp_path / "killed-0-1.txt").write_text("its process 2 was stopped (SIGSTOP)\n\nstacks")
    assert reason_of_kill(tmp_path, 0) == "its process 2 was stopped (SIGSTOP)"


@pytest.fixture
def memory_limit() -> Iterator[Callable[[int], None]]:
    """Puts a process into a control group with little memory, where this user may make one."""
    versions = (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    )
    root, limit = next((each for each in versions if each[0].is_dir()), versions[1])
    group = root / f"drcnn-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(300 << 20))
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield lambda pid: [(group / "cgroup.procs").write_text(str(pid))].clear()
    limit_of_wait = time.monotonic() + 20
    while (group / "cgroup.procs").read_text() and time.monotonic() < limit_of_wait:
        time.sleep(0.1)  # for the companion, which is in it too
    group.rmdir()


@pytest.mark.faults
def test_the_kernels_kill_for_want_of_memory_is_told_from_others(
    tmp_path: Path, memory_limit: Callable[[int], None]
) -> None:
    work = "watch.beat(True)\ntime.sleep(3)\nkept = [bytearray(1 << 20) for _ in range(1000)]\ntime.sleep(60)"
    process = start(tmp_path, work, between=100.0)
    memory_limit(process.pid)
    wait(process)
    assert process.returncode == -signal.SIGKILL
    limit = time.monotonic() + 20
    while (reason := reason_of_kill(tmp_path, 0)) is None and time.monotonic() < limit:
        time.sleep(0.2)
    assert (reason or "").startswith("out of memory: the kernel killed the process")


@pytest.mark.faults
def test_another_kill_is_put_down_to_nothing(tmp_path: Path) -> None:
    process = start(tmp_path, "watch.beat(True)\ntime.sleep(60)")
    time.sleep(3)
    process.kill()
    wait(process)
    time.sleep(3)
    assert reason_of_kill(tmp_path, 0) is None


def test_a_note_comes_to_the_store_with_the_next_attempt(
    make_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan("title: t\nkind: grid\ngrid: {detector.nms_reg: [0.7]}\n")
    (trial,) = expand(plan)
    monkeypatch.setattr("studies.transfer.trial_folders._tables", lambda trial: [])
    monkeypatch.setattr("studies.transfer.trial_folders.unreadable_image", lambda data: None)
    trial.folder.mkdir(parents=True)
    note = trial.folder / "killed-0-0.txt"
    note.write_text("its process 1 hung\n\nstacks")
    folders = TrialFolders(ObjectStore(f"file://{tmp_path}/store", plan.output))
    folders.prepare_node(trial)
    assert reason_of_kill(trial.folder, 0) == "its process 1 hung"
    note.unlink()
    folders.collect(trial)
    assert reason_of_kill(trial.folder, 0) == "its process 1 hung"


def test_a_note_that_cannot_be_read_is_no_reason(tmp_path: Path) -> None:
    (tmp_path / "killed-0-0.txt").mkdir()
    assert reason_of_kill(tmp_path, 0) is None
    (tmp_path / "killed-0-1.txt").write_bytes(b"its process 2 \xff hung\n")
    assert reason_of_kill(tmp_path, 0) == "its process 2 \ufffd hung"


class Counter:
    """A file like the kernel's, and a clock."""

    def __init__(self, path: Path) -> None:
        self.path, self.now, self.kills = path, 1000.0, 2
        self.kill()

    def kill(self) -> None:
        self.kills += 1
        self.path.write_text(f"low 0\noom 1\noom_kill {self.kills}\n")

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counter:
    found = Counter(tmp_path / "memory.events")
    monkeypatch.setattr(companion, "COUNTERS", (str(tmp_path / "absent"), str(found.path)))
    clock = SimpleNamespace(monotonic=found.monotonic, sleep=lambda seconds: None)
    monkeypatch.setattr(companion, "time", clock)
    return found


@pytest.mark.parametrize(("ago", "told"), [(0, True), (7, True), (15, False), (3600, False)])
def test_only_a_kill_just_before_the_death_is_the_reason(
    tmp_path: Path, counter: Counter, *, ago: int, told: bool
) -> None:
    kills = companion._RecentKills()
    for _ in range(100):
        counter.now += 1
        kills.look()
    counter.kill()
    for _ in range(ago):
        counter.now += 1
        kills.look()
    companion._tell_of_memory(tmp_path / "killed-0-0.txt", kills, 3 << 30)
    reason = reason_of_kill(tmp_path, 0) or ""
    assert reason.startswith("out of memory: the kernel killed the process on ") == told
    assert len(kills._counts) < 15, "hours of counts are not kept"


def test_work_of_seconds_is_compared_with_its_start(counter: Counter) -> None:
    kills = companion._RecentKills()
    assert not kills.has_more()
    counter.kill()
    assert kills.has_more()
