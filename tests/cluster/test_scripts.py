"""The scripts of cluster/, run: Slurm's job on two imitated nodes, and MLflow's server over PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "SLURM_", "MLFLOW_"))
}
ENVIRONMENT["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))

# What the script needs of Slurm: names of the nodes, and a command started once on each of some.
SCONTROL = """#!/usr/bin/env bash
[ "$1 $2" = "show hostnames" ] && tr , '\\n' <<< "$3"
[ "$1" != requeue ] || echo "$2" > "$HOME/requeued"
"""
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do case $1 in --nodelist=*) hosts=${1#*=} ;; esac; shift; done
for host in ${hosts//,/ }; do "$@" & done
trap 'kill -TERM $(jobs -p); wait; exit 143' TERM
wait
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts slurm.sh as Slurm would; what it leaves running is ended."""
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    job = str(10_000 + secrets.randbelow(9_000_000))
    environment = ENVIRONMENT | {
        "PATH": f"{tmp_path / 'bin'}:{ENVIRONMENT['PATH']}",
        "HOME": str(tmp_path),
        "SLURM_JOB_ID": job,
        "SLURM_JOB_NODELIST": "n1,n2",
        "SLURM_CPUS_ON_NODE": "1",
        "SLURM_SUBMIT_DIR": str(ROOT),
    }
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = ["bash", str(ROOT / "cluster/slurm.sh"), *arguments]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
        started.append(process)
        return process

    try:
        yield start
        assert rays(job) == [], "Ray was left behind"
    finally:
        for process in started:
            process.kill()
            process.wait()
        for pid in rays(job):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(f"/tmp/ray-{job}", ignore_errors=True)


def rays(job: str) -> list[int]:
    """The processes of a job's Ray: all of them name its folder."""
    named = f"/tmp/ray-{job}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if named in path.read_bytes():
                found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_a_study_runs_on_all_nodes_of_a_slurm_job(
    slurm: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    output = tmp_path / "runs"
    process = slurm("nms_sweep", "--smoke", "--output", str(output))
    out, errors = process.communicate(timeout=400)
    assert process.returncode == 0, out + errors
    assert "The cluster: 2 nodes" in out
    assert "2 trained" in out
    assert (output / "nms_sweep-smoke" / "report.md").is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("given", [signal.SIGUSR1, signal.SIGTERM], ids=["time limit", "scancel"])
def test_slurms_signal_ends_the_study_in_order_and_at_the_time_limit_the_job_comes_again(
    slurm: Callable[..., subprocess.Popen[str]], tmp_path: Path, given: signal.Signals
) -> None:
    process = slurm("nms_sweep", "--output", str(tmp_path / "runs"))
    assert process.stdout is not None
    for line in process.stdout:
        if "running, epoch" in line:
            break
    process.send_signal(given)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 143, errors
    assert "run_study: interrupted" in errors
    requeued = tmp_path / "requeued"
    assert requeued.exists() == (given == signal.SIGUSR1)
    assert not requeued.exists() or requeued.read_text().strip().isdigit()


def test_slurm_is_asked_for_all_memory_and_for_a_signal_that_requeues() -> None:
    text = (ROOT / "cluster/slurm.sh").read_text()
    for option in ("--mem=0", "--requeue", "--open-mode=append", "--signal=B:USR1@300"):
        assert f"\n#SBATCH {option}\n" in text


def test_bad_input_ends_a_slurm_job_before_ray_starts(tmp_path: Path) -> None:
    script = str(ROOT / "cluster/slurm.sh")
    for changes, part in (
        ({}, "sbatch"),
        ({"SLURM_JOB_ID": "1", "SLURM_SUBMIT_DIR": str(tmp_path)}, "checkout"),
    ):
        done = subprocess.run(
            ["bash", script, "x"], env=ENVIRONMENT | changes, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert part in done.stderr


class Server:
    """mlflow_server.sh for a folder and a free port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._prefix = folder, list[str]()
        if os.geteuid() == 0:
            # PostgreSQL refuses root: in a namespace of its own, root has another number.
            user = pwd.getpwnam("postgres")
            self._prefix = ["unshare", "--user", f"--map-user={user.pw_uid}", f"--map-group={user.pw_gid}"]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{port}"
        self._environment = ENVIRONMENT | {"MLFLOW_PORT": str(port), "HOME": str(folder)}

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*self._prefix, "bash", str(ROOT / "cluster/mlflow_server.sh"), *arguments]
        # Not through pipes: what it leaves running would keep them open.
        with (self.folder / "out").open("w+") as out:
            code = subprocess.run(
                command, env=self._environment, stdout=out, stderr=out, timeout=200, check=False
            ).returncode
            out.seek(0)
            return subprocess.CompletedProcess(command, code, out.read())

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return True
        except OSError:
            return False


@pytest.fixture
def server() -> Iterator[Server]:
    if not POSTGRES:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    # A socket's path is short.
    server = Server(Path(tempfile.mkdtemp(prefix="mlflow-")))
    if server._prefix and subprocess.run([*server._prefix, "true"], check=False).returncode:
        pytest.skip("root may not make user namespaces here, and PostgreSQL does not run as root")
    try:
        yield server
    finally:
        for name in ("first", "second"):
            server("stop", str(server.folder / name))
        shutil.rmtree(server.folder)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_mlflows_server_starts_once_and_its_record_moves_to_another_head(server: Server) -> None:
    first, second, artifacts = (str(server.folder / name) for name in ("first", "second", "artifacts"))
    started = server("start", first, artifacts)
    assert started.returncode == 0, started.stdout
    pid = (Path(first) / "mlflow.pid").read_text()
    assert server("start", first, artifacts).returncode == 0
    assert (Path(first) / "mlflow.pid").read_text() == pid
    assert (Path(first).stat().st_mode & 0o777) == 0o700
    assert "listen_addresses = ''" in (Path(first) / "postgresql/postgresql.conf").read_text()

    client = MlflowClient(server.uri)
    run = client.create_run(client.create_experiment("study"))
    client.log_metric(run.info.run_id, "AP", 0.5, step=1)
    client.log_text(run.info.run_id, "words", "note.txt")
    assert list(Path(artifacts).rglob("note.txt"))
    assert server("dump", first, str(server.folder / "all.dump")).returncode == 0

    # Every hour, until stop: the database under its name and the weekday's.
    record = server.folder / "record"
    kept = server("keep", first, str(record))
    assert kept.returncode == 0, kept.stdout
    assert len(dumps := sorted(record.glob("mlflow*.dump"))) == 2
    assert {path.read_bytes()[:5] for path in dumps} == {b"PGDMP"}
    keeper = int((Path(first) / "keep.pid").read_text())
    assert Path(f"/proc/{keeper}").exists()
    assert server("stop", first).returncode == 0
    wait_until(lambda: not server.answers())
    wait_until(lambda: not Path(f"/proc/{keeper}").exists())

    # As `ray up` does on a new head: what was saved is there before it is saved again.
    started = server("start", second, artifacts, str(record))
    assert started.returncode == 0, started.stdout
    assert server("keep", second, str(record)).returncode == 0
    (metric,) = MlflowClient(server.uri).get_metric_history(run.info.run_id, "AP")
    assert (metric.step, metric.value) == (1, 0.5)
    assert server("stop", second).returncode == 0
    wait_until(lambda: not server.answers())
    (record / "mlflow.dump").write_bytes(b"no dump")
    third = str(server.folder / "third")
    refused = server("start", third, artifacts, str(record))
    assert refused.returncode == 1
    assert "cannot be restored" in refused.stdout

    # At home, from a file.
    restored = server("restore", third, str(server.folder / "all.dump"))
    assert restored.returncode == 0, restored.stdout
    assert server("start", third, artifacts).returncode == 0
    (metric,) = MlflowClient(server.uri).get_metric_history(run.info.run_id, "AP")
    assert (metric.step, metric.value) == (1, 0.5)


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("waited 30 s in vain")
