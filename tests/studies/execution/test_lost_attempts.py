"""Processes that are stopped, killed or diverge, and what a launch makes of them; all real."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import ray
from launch_helpers import Launch, results, runs, steps, write_study
from ray import tune
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.util import get_node_ip_address
from study_helpers import assignments

from drcnn.data.annotations import Annotations, Record
from drcnn.data.prepare import PreparedData
from drcnn.engine.record import Status, read_record, write_finished
from studies.definition.plan import Plan, Trial, expand
from studies.definition.request import Machines
from studies.execution.lost_attempts import NodeFaults, reason_of_loss
from studies.execution.trial_watcher import TuneRun
from studies.execution.tuning import run_trials
from studies.record.provenance import installed_versions
from studies.resources.node_probe import NodeRequirements
from studies.resources.nodes import UNFIT, Examination
from studies.resources.slots import AUTOSCALER_CONFIG, Allocation
from studies.transfer.trial_folders import TrialFolders
from studies.transfer.trial_store import TrialStore
from studies.worker.faults import failures_recorded, wait_before_attempt

ONE = "title: Mine\nkind: grid\ngrid: {detector.nms_reg: [0.7]}\n"
GIB = 2**30
GROUP = ("--workers-per-trial", "2", "--max-concurrent", "1")


class Impatient(Launch):
    """A launch whose trials may be silent for seconds only."""

    program = (
        "-c",
        "import sys\nfrom dataclasses import replace\nfrom studies.execution import tuning\n"
        "from studies.worker.watch import Patience\nmade = tuning._job\n"
        "tuning._job = lambda *given, **more: replace(made(*given, **more), patience=Patience(5, 30))\n"
        "from studies.run_study import main\nsys.exit(main(sys.argv[1:]))",
    )


def workers(output: Path) -> dict[str, int]:
    """The processes that work on a trial now, by attempt and rank: their companions' arguments say so."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if len(words) > 6 and words[2].endswith("companion.py") and words[6].startswith(str(output)):
            found[words[6]] = int(words[3])
    return dict(sorted(found.items()))


def epochs(output: Path) -> int:
    return max((len(read_record(folder).history) for folder in output.glob("trials/*")), default=0)


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("group", [(), GROUP], ids=["one", "group"])
def test_a_stopped_worker_is_named_and_its_trial_goes_on(output: Path, group: tuple[str, ...]) -> None:
    settings = assignments(training__epochs=6, data__train_images=96)
    launch = Impatient(output, write_study(output, ONE), *group, "--set", *settings)
    launch.wait_until(lambda: epochs(output) >= 2)
    # In the midst of the batches of an epoch, between which silence is soon noticed.
    time.sleep(0.7)
    stopped = list(workers(output).values())[-1]
    os.kill(stopped, signal.SIGSTOP)
    status, out, err = launch.end()
    assert status == 0, err
    assert f"its process {stopped} was stopped (SIGSTOP) on " in out
    assert "tried again (2 of 3)" in out
    (note,) = output.glob(f"trials/*/killed-0-{1 if group else 0}.txt")
    assert "Current thread" in note.read_text() or "Thread 0x" in note.read_text()
    _, (child,) = runs(output, "mine")
    assert steps(output, child) == list(range(1, 7))


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("group", [(), GROUP], ids=["one", "group"])
def test_attempts_have_one_limit_and_the_last_reason_is_kept(output: Path, group: tuple[str, ...]) -> None:
    launch = Launch(output, write_study(output, ONE), *group, "--set", *assignments(training__epochs=5000))
    killed: dict[str, int] = {}
    rank = 1 if group else 0
    limit = time.monotonic() + 500
    while launch.process.poll() is None and time.monotonic() < limit:
        for note, worker in workers(output).items():
            if note.endswith(f"-{rank}.txt") and note not in killed:
                killed[note] = worker
                os.kill(worker, signal.SIGKILL)
        time.sleep(0.2)
    status, out, err = launch.end()
    assert status == 1, err
    assert [Path(note).name for note in killed] == [f"killed-{attempt}-{rank}.txt" for attempt in range(3)]
    (folder,) = output.glob("trials/*")
    error = read_record(folder).error or ""
    assert "was killed or crashed" in error
    assert "(attempt 3 of 3)" in error
    assert out.count("tried again") == 2


@pytest.mark.faults
@pytest.mark.slow
def test_a_diverging_group_ends_at_once_and_optuna_is_told(output: Path) -> None:
    study = write_study(
        output,
        "title: Mine\nkind: search\ntrials: 1\n"
        "base: {training.clip_norm: null, training.warmup_iterations: 0}\n"
        "space: {training.lr: {low: 1.0e+29, high: 1.0e+30}}\n",
    )
    settings = assignments(training__epochs=2)
    status, out, err = Launch(output, study, *GROUP, "--set", *settings).end()
    assert status == 1, err
    assert "tried again" not in out
    (folder,) = output.glob("trials/*")
    error = read_record(folder).error or ""
    assert error.startswith("TrainingDiverged: ")
    assert "not finite in epoch 1 at step " in error
    storage = f"sqlite:///{output}/mine/optuna.db"
    (summary,) = optuna.get_all_study_summaries(storage)
    found = optuna.load_study(study_name=summary.study_name, storage=storage).trials
    assert [trial.state for trial in found] == [optuna.trial.TrialState.FAIL]


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.usefixtures("hangs_up")
def test_a_closed_terminal_ends_a_study_in_order(output: Path) -> None:
    launch = Launch(output, write_study(output, ONE), "--set", *assignments(training__epochs=500))
    launch.wait_until(lambda: epochs(output) >= 2)
    os.killpg(launch.process.pid, signal.SIGHUP)
    status, _, err = launch.end()
    assert status == 130, err
    assert "run the same command again to resume" in err
    assert {run.info.status for group in runs(output, "mine") for run in group} == {"KILLED"}
    assert not results(output)


@pytest.mark.faults
@pytest.mark.slow
def test_rays_own_memory_monitor_is_told_from_other_kills(output: Path) -> None:
    """In the middle of a step, where Ray has an error of its own for it, and at the next attempts' starts."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    kib = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
    used = 1 - kib["MemAvailable"] / kib["MemTotal"]
    launch = Launch(
        output,
        write_study(output, ONE),
        *("--set", *assignments(training__epochs=5000)),
        RAY_memory_usage_threshold=str(used + 4 * GIB / 1024 / kib["MemTotal"]),
        RAY_memory_monitor_refresh_ms="250",
    )
    while launch.process.poll() is None and epochs(output) < 2:
        time.sleep(0.1)
    taken = b"1" * (5 * GIB)
    status, out, err = launch.end()
    assert len(taken) == 5 * GIB
    assert status == 1, out + err
    (folder,) = output.glob("trials/*")
    error = read_record(folder).error or ""
    assert error.startswith("out of memory: Ray ended the process to save its node")
    assert "--max-concurrent" in error


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """The addresses of a head with one slot and of a node with two."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=2, node_ip_address="127.0.0.2")
    ray.init(cluster.address, logging_level="critical", log_to_driver=False)
    try:
        yield cluster.head_node.node_ip_address, "127.0.0.2"
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.faults
@pytest.mark.slow
def test_a_node_with_two_faults_gets_no_more_trials(two_nodes: tuple[str, str]) -> None:
    head, broken = two_nodes

    def where() -> str:
        time.sleep(0.3)
        return str(ray.util.get_node_ip_address())

    def used() -> set[str]:
        task = ray.remote(num_cpus=1)(where)
        return set(ray.get([task.remote() for _ in range(12)]))

    def are_both_used() -> bool:
        # A node starts its processes when it likes to.
        return any(used() == {head, broken} for _ in range(20))

    faults = NodeFaults(Allocation(3, 1, 0.0))
    assert are_both_used()
    assert faults.count("one", "CUDA error", f"RuntimeError: CUDA error (on node h, {broken})") is None
    assert faults.count("two", "CUDA error", f"RuntimeError: CUDA error (on node h, {head})") is None
    assert faults.count("three", "out of memory", f"\tip: {broken}\nkilled") is None
    assert faults.count("two", "CUDA error", f"RuntimeError: CUDA error (on node h, {broken})") is None
    assert are_both_used()
    # What a node takes with it when it goes is no fault, and not the trial's first.
    gone = f"ActorDiedError\n\tip: {head}\nThe actor died because its node has died."
    assert faults.count("four", reason_of_loss(Path(), 0, gone), gone) is None
    told = faults.count("four", "killed", f"ActorDiedError\n\tpid: 7\n\tip: {broken}\nworker")
    assert (told or "").startswith(
        f"node {broken} gets no more trials in this launch, but runs and is paid for"
    )
    assert used() == {head}
    assert faults.count("five", "CUDA error", f"RuntimeError: CUDA error (on node h, {head})") is None
    assert used() == {head}, "the last node stays"


@pytest.mark.faults
@pytest.mark.slow
def test_an_unfit_node_gets_no_second_trial(two_nodes: tuple[str, str]) -> None:
    head, unfit = two_nodes
    faults = NodeFaults(Allocation(3, 1, 0.0))
    text = f"RuntimeError: OSError: {UNFIT}node h: 0.5 GiB free for --output (on node h, {unfit})"
    once = f"RuntimeError: CUDA error (on node h, {unfit})"
    assert faults.count("zero", "CUDA error", once) is None
    assert f"node {unfit} gets no more trials" in (faults.count("one", "unfit", text) or "")
    assert faults.count("two", "unfit", text) is None, "named once"
    task = ray.remote(num_cpus=1)(lambda: str(ray.util.get_node_ip_address()))
    assert set(ray.get([task.remote() for _ in range(6)])) == {head}


@pytest.mark.faults
@pytest.mark.slow
def test_where_an_autoscaler_can_start_another_a_faulty_node_is_given_back(
    two_nodes: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, broken = two_nodes
    monkeypatch.setenv("HOME", str(tmp_path))
    types = {"head": {}, "gpu": {"resources": {"CPU": 2}, "max_workers": 2}}
    config = {"head_node_type": "head", "max_workers": 2, "available_node_types": types}
    (tmp_path / AUTOSCALER_CONFIG).write_text(json.dumps(config))

    def is_there() -> bool:
        return any(node["Alive"] and node["NodeManagerAddress"] == broken for node in ray.nodes())

    class Works:
        def where(self) -> str:
            return str(ray.util.get_node_ip_address())

        def go(self) -> None:
            asked = GcsClient(address=ray.get_runtime_context().gcs_address)
            here = ray.get_runtime_context().get_node_id()
            while here not in asked.get_draining_nodes(timeout=10):  # as ``worker.notice`` does
                time.sleep(0.1)

    other = ray.remote(num_cpus=1, label_selector={"ray.io/node-id": _node_at(broken)})(Works).remote()
    assert ray.get(other.where.remote()) == broken
    saved = other.go.remote()
    faults = NodeFaults(Allocation(3, 1, 0.0))
    assert faults.count("one", "CUDA error", f"RuntimeError: CUDA error (on node h, {broken})") is None
    told = faults.count("two", "CUDA error", f"RuntimeError: CUDA error (on node h, {broken})")
    assert (told or "").startswith(f"node {broken} is given back: its trials go on elsewhere")
    assert is_there(), "until its other trials have ended"
    text = f"OSError: {UNFIT}no disk (on node h, {broken})"
    assert faults.count("three", "unfit", text) is None, "once"
    ray.get(saved, timeout=60)
    del other
    limit = time.monotonic() + 60
    while is_there():
        assert time.monotonic() < limit
        time.sleep(0.2)
    assert faults.count("four", "unfit", text.replace(broken, head)) is None, "the head stays"


class Shown:
    """What the live table and MLflow are told."""

    def __init__(self) -> None:
        self.reasons = list[str]()

    def show(self, trial: Trial, status: Status, metrics: Mapping[str, float], why: str = "") -> None:
        self.reasons += [why] if why else []

    def start(self, trial: Trial) -> None: ...
    def log(self, trial: Trial, metrics: Mapping[str, float]) -> None: ...
    def finish(self, trial: Trial) -> None: ...


@pytest.mark.faults
@pytest.mark.slow
def test_trials_that_come_to_an_unfit_node_go_on_elsewhere(
    two_nodes: tuple[str, str],
    make_plan: Callable[..., Plan],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Tune, its errors and the examination are real; in place of training a trial says where it is."""
    head, unfit = two_nodes
    monkeypatch.setenv("HOME", str(tmp_path))  # no autoscaler
    plan = make_plan("title: Mine\nkind: grid\ngrid: {detector.nms_reg: [0.5, 0.6, 0.7]}\n")
    plan.output.mkdir(parents=True)
    image, table = tmp_path / "image.jpg", tmp_path / "table.arrow"
    image.touch()
    boxes, labels = np.array([[0, 0, 2, 2]], np.float32), np.array([0], np.int32)
    record = Record(id="one", path=str(image), width=4, height=4, boxes=boxes, labels=labels)
    Annotations.from_records([record], ["thing"]).save(table)
    data = PreparedData(str(table), str(table), None, ("thing",), "f" * 16, ())
    # On the head too, but that was looked at before.
    needed = NodeRequirements(plan.output, "", TrialStore(), (), data, (tmp_path / "absent.pth",))
    examination = Examination(needed, frozenset({_node_at(head)}), installed_versions())

    def work(config: Mapping[str, Any]) -> None:
        trial, job = config["trial"], config["job"]
        wait_before_attempt(config.get("failures", 0))
        with failures_recorded(trial, job.folders):
            job.examination.require_fit()
            time.sleep(1)
            where = {"epoch": 1.0, "perf/head": float(get_node_ip_address() == head)}
            write_finished(trial.folder, [where], {}, 1.0, {})
            tune.report(where)

    shown: Any = Shown()
    folders = TrialFolders(TrialStore())
    allocation = Allocation(3, 1, 0.0, examination=examination)
    run = TuneRun(plan, Machines("auto"), allocation, folders, shown, shown)
    run_trials(run, trials := expand(plan), trainable=work)
    records = [read_record(trial.folder) for trial in trials]
    assert [record.metrics.get("perf/head") for record in records] == [1.0] * 3, records
    assert shown.reasons, "none came to the unfit node"
    for reason in shown.reasons:
        assert f"{UNFIT}node " in reason
        assert "absent.pth (detector.weights); put it there on every node" in reason
        assert "; tried again (" in reason
    assert len(shown.reasons) <= 5, "some had their place there already, but no trial comes a third time"
    (told,) = (record.getMessage() for record in caplog.records if "no more trials" in record.getMessage())
    assert told.startswith(
        f"node {unfit} gets no more trials in this launch, but runs and is paid for: mend it"
    )


def _node_at(address: str) -> str:
    return next(str(node["NodeID"]) for node in ray.nodes() if node["NodeManagerAddress"] == address)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.\n"
            "\tclass_name: ImplicitFunc\n\tpid: 71\n\tip: 10.0.0.3\n"
            "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR "
            "Worker exit detail: Worker unexpectedly exits with a connection error code 2. End of file.\n"
            "The actor never ran - it was cancelled before it started running.",
            "its process 71 on 10.0.0.3 was killed or crashed "
            "(Worker unexpectedly exits with a connection error code 2)",
        ),
        ("\tip: 10.0.0.3\nThe actor died because its node has died. Node Id: f", "the node 10.0.0.3 is gone"),
        ("Traceback\n  File\nRuntimeError: cuDNN error (on node h, 10.0.0.3)\n", "RuntimeError: cuDNN error"),
        ("", "ended without a message"),
    ],
)
def test_reasons_say_what_happened(tmp_path: Path, text: str, reason: str) -> None:
    assert reason_of_loss(tmp_path, 0, text).startswith(reason)
