"""MLflow as a head runs it: cluster/mlflow_server.sh, PostgreSQL, artifacts in S3 behind its proxy."""

from __future__ import annotations

import getpass
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from drcnn.config import DataConfig
from drcnn.data.prepare import PreparedData
from studies.definition.overrides import Overrides
from studies.definition.plan import Plan, Trial, expand
from studies.definition.study_file import parse
from studies.definition.trial import Inputs
from studies.record.tracking.runs import Tracker

boto3 = pytest.importorskip("boto3", reason="needs boto3: pip install '.[cluster]'")
psycopg2 = pytest.importorskip("psycopg2", reason="needs psycopg2: pip install '.[cluster]'")

SCRIPT = Path(__file__).resolve().parents[2] / "cluster" / "mlflow_server.sh"
BUCKET = "studies"
KEYS = {"aws_access_key_id": "nobody", "aws_secret_access_key": "nothing"}
DRIVERS, EPOCHS = 8, 3
STUDY = "title: Mine\nkind: grid\ngrid: {detector.nms_reg: [0.7, 0.8]}\n"
# PostgreSQL does not run as root. In a user namespace root is somebody else who can read root's Python.
OWNER = "postgres" if os.geteuid() == 0 else getpass.getuser()
AS_OWNER = ["unshare", "--user", f"--map-user={OWNER}", f"--map-group={OWNER}"] if OWNER == "postgres" else []

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server that speaks S3's protocol and has one bucket."""
    pytest.importorskip("moto.server", reason="needs a server of S3's API: pip install 'moto[server,s3]'")
    port, log = free_port(), tmp_path_factory.mktemp("s3") / "log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/moto-api/", log)
        bucket(url).create()
        yield url
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_for(url: str, log: Path) -> None:
    for _ in range(300):
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.2)
    raise AssertionError(f"{url} does not answer:\n{log.read_text()}")


def bucket(url: str) -> Any:
    return boto3.resource("s3", endpoint_url=url, region_name="us-east-1", **KEYS).Bucket(BUCKET)


class Server:
    """What the script starts, in a folder of its own."""

    def __init__(self, folder: Path, s3: str) -> None:
        self.folder, self._port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        # Only the server has the bucket's keys.
        self._environment = {
            **os.environ,
            **{key.upper(): value for key, value in KEYS.items()},
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_S3_ENDPOINT_URL": s3,
            "MLFLOW_PORT": str(self._port),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def start(self) -> None:
        self._run("start", f"s3://{BUCKET}/mlflow")

    def stop(self) -> None:
        self._run("stop")

    def _run(self, action: str, *more: str) -> None:
        # Not through pipes: the servers that stay would keep them open.
        with (self.folder / "script.log").open("ab") as log:
            command = [*AS_OWNER, "bash", str(SCRIPT), action, str(self.folder), *more]
            done = subprocess.run(command, env=self._environment, stdout=log, stderr=log, check=False)
        text = "".join(path.read_text() for path in self.folder.glob("*.log"))
        assert done.returncode == 0, text[-5000:]

    def kill_mlflow(self) -> None:
        """MLflow and its workers die at once; PostgreSQL stays."""
        os.killpg(int((self.folder / "mlflow.pid").read_text()), signal.SIGKILL)

    def metrics(self, run: Run) -> list[tuple[str, int, float]]:
        """Every row that PostgreSQL has; the server's answers would not show one that is there twice."""
        with closing(psycopg2.connect(host=str(self.folder), dbname="mlflow", user=OWNER)) as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT key, step, value FROM metrics WHERE run_uuid = %s", (run.info.run_id,))
            return sorted(cursor.fetchall())


@pytest.fixture(scope="module")
def server(s3: str) -> Iterator[Server]:
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    if AS_OWNER and subprocess.run([*AS_OWNER, "true"], capture_output=True, check=False).returncode:
        pytest.skip("PostgreSQL does not run as root: needs another user, or user namespaces")
    # Not pytest's folder: a socket's path must be short.
    server = Server(Path(tempfile.mkdtemp(prefix="mlflow-")), s3)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.folder)


def trials_of(name: str, output: Path) -> list[Trial]:
    """Two trials of a study whose data need not exist."""

    def prepare(data: DataConfig) -> PreparedData:
        return PreparedData("train.arrow", "val.arrow", None, ("0", "1"), "f" * 16, ())

    overrides = Overrides.resolve(parse(STUDY, "mine.yaml"), "laptop", "digits", {})
    return expand(Plan(name, overrides, output, Inputs(prepare)))


def epoch(number: int, offset: float) -> dict[str, float]:
    """Some twenty figures, different in each epoch and study."""
    figures = {f"val/AP{threshold}": offset + number / threshold for threshold in range(50, 91)[::2]}
    return {"epoch": float(number), "val/AP": offset + number / 10, "perf/eval_seconds": 1.0, **figures}


def finish(trial: Trial, offset: float) -> None:
    """Write what ``fit`` leaves: the record, and a checkpoint of some size."""
    trial.folder.mkdir(parents=True, exist_ok=True)
    history = [epoch(number, offset) for number in range(1, EPOCHS + 1)]
    record = {
        "status": "finished",
        "epoch": EPOCHS,
        "metrics": history[-1],
        "history": history,
        "seconds": 1.0,
    }
    for name in ("last", "best"):
        (trial.folder / f"{name}.safetensors").write_bytes(secrets.token_bytes(4 << 20))
    (trial.folder / "result.json").write_text(json.dumps(record))


def drive(uri: str, output: Path, offset: float, together: threading.Barrier) -> None:
    """One driver: two trials of a study side by side, as far as MLflow sees."""
    trials = trials_of("mine", output)
    together.wait()
    tracker = Tracker(uri, None, "mine", output)
    tracker.open("key", "mine today", "Mine", fresh=False, tags={"a": "b"}, texts={"study.yaml": STUDY})
    for trial in trials:
        tracker.start(trial)
    for number in range(1, EPOCHS + 1):
        for trial in trials:
            tracker.log(trial, epoch(number, offset))
    for trial in trials:
        finish(trial, offset)
        tracker.finish(trial)
    tracker.close("FINISHED", trials, trials[0], [trials[0].folder / "result.json"], "A title")


class Kept:
    """What MLflow has of one study's folder."""

    def __init__(self, server: Server, experiment: str, output: Path) -> None:
        self._server, self._client = server, MlflowClient(server.uri)
        self._trials = {trial.id: trial for trial in trials_of(experiment, output)}
        found = self._client.get_experiment_by_name(experiment)
        runs = self._client.search_runs([found.experiment_id], f"tags.`drcnn.output` = '{output}'")
        self._children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
        (self._parent,) = (run for run in runs if run not in self._children)

    def check(self, offset: float, folder: Path) -> None:
        """Everything is there once: runs, all metrics of all epochs, files byte for byte."""
        assert sorted(run.data.tags["drcnn.trial_id"] for run in self._children) == sorted(self._trials)
        assert {run.info.status for run in (self._parent, *self._children)} == {"FINISHED"}
        records = [epoch(number, offset) for number in range(1, EPOCHS + 1)]
        logged = [(key, int(each["epoch"]), each[key]) for each in records for key in each if key != "epoch"]
        for run in self._children:
            trial = self._trials[run.data.tags["drcnn.trial_id"]]
            assert run.data.params["nms_reg"] == str(trial.config.detector.nms_reg)
            assert self._server.metrics(run) == sorted(logged)
            assert self._file(run, "result.json", folder) == (trial.folder / "result.json").read_bytes()
        assert self._parent.data.tags["drcnn.best_trial_id"] in self._trials

    def _file(self, run: Run, name: str, folder: Path) -> bytes:
        return Path(self._client.download_artifacts(run.info.run_id, name, str(folder))).read_bytes()


def test_eight_drivers_log_two_trials_each_at_once(server: Server, s3: str, tmp_path: Path) -> None:
    outputs = [tmp_path / f"runs-{number}" for number in range(DRIVERS)]
    together = threading.Barrier(DRIVERS, timeout=120)
    with ThreadPoolExecutor(DRIVERS) as pool:
        ends = [
            pool.submit(drive, server.uri, output, number, together) for number, output in enumerate(outputs)
        ]
        for end in ends:
            end.result()
    for number, output in enumerate(outputs):
        Kept(server, "mine", output).check(number, tmp_path)
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("mine").experiment_id
    assert not client.search_runs([experiment], "attributes.status = 'RUNNING'")
    assert len(client.search_runs([experiment])) == DRIVERS * 3
    stored = [each.key for each in bucket(s3).objects.all()]
    assert not [key for key in stored if key.endswith(".safetensors")], "weights stay in the trials' folders"


def test_a_server_killed_in_between_costs_nothing_in_the_end(server: Server, tmp_path: Path) -> None:
    output = tmp_path / "runs"
    first, second = trials = trials_of("outage", output)
    tracker = Tracker(server.uri, None, "outage", output)
    tracker.open("key", "outage today", "Outage", fresh=False, tags={}, texts={})
    tracker.start(first)
    tracker.log(first, epoch(1, 0.5))
    server.kill_mlflow()
    try:
        # With MLflow's own patience each of these would wait for four minutes, and training with them.
        tracker.log(first, epoch(2, 0.5))
        tracker.log(first, epoch(3, 0.5))
        finish(first, 0.5)
        tracker.finish(first)
        tracker.start(second)
        tracker.log(second, epoch(1, 0.5))
    finally:
        server.start()
    tracker.log(second, epoch(2, 0.5))
    finish(second, 0.5)
    tracker.finish(second)
    tracker.close("FINISHED", trials, first, [], "Outage")
    Kept(server, "outage", output).check(0.5, tmp_path)


READY = """
import sys
from pathlib import Path
from studies.record.tracking.store import _quieten, _ready
_quieten()
_ready(sys.argv[1], Path(sys.argv[2]))
"""


@pytest.mark.faults
def test_two_launches_at_once_make_the_tables_of_a_fresh_database_once(
    server: Server, tmp_path: Path
) -> None:
    with closing(psycopg2.connect(host=str(server.folder), dbname="mlflow", user=OWNER)) as connection:
        connection.autocommit = True
        connection.cursor().execute("CREATE DATABASE fresh")
    uri = f"postgresql+psycopg2://{OWNER}@/fresh?host={server.folder}"
    command = [sys.executable, "-c", READY, uri, str(tmp_path)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(process.communicate()[1][-2000:], process.returncode) for process in both] == [("", 0)] * 2
    assert [found.name for found in MlflowClient(uri).search_experiments()] == ["Default"]
