"""What a study leaves: MLflow's pages and the report in a browser, and a model that is served."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from launch_helpers import Launch, runs, write_study
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image
from study_helpers import assignments

from drcnn.config import ConfigError
from drcnn.trained_model import find_model
from studies.record.tracking.addresses import default_uri

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass(frozen=True)
class Study:
    """A finished study, and what its launch printed."""

    output: Path
    printed: str
    parent: Run
    children: list[Run]

    def line(self, pattern: str) -> str:
        found = re.search(pattern, self.printed, re.MULTILINE)
        assert found, self.printed
        return found[1]


@pytest.fixture(scope="module")
def study(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    output = tmp_path_factory.mktemp("my runs #1")
    shutil.copy(migrated, output / "mlflow.db")
    text = "title: Does a threshold help?\nkind: grid\ngrid: {detector.nms_reg: [0.7, 0.85]}\n"
    command = [write_study(output, text), "--max-concurrent", "1", "--set", *assignments(training__epochs=1)]
    status, out, err = Launch(output, *command).end()
    assert status == 0, err
    (parent,), children = runs(output, "mine")
    return Study(output, out, parent, children)


@contextmanager
def serving(command: list[str], port: int, ready: str, log: Path) -> Iterator[str]:
    """Run a server until the end of the block; yields its address."""
    with log.open("w") as file:
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        process = subprocess.Popen(
            command, stdout=file, stderr=file, start_new_session=True, cwd=log.parent, env=environment
        )
    address = f"http://127.0.0.1:{port}"
    try:
        limit = time.monotonic() + 250
        while not answers(f"{address}{ready}"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except (urllib.error.URLError, OSError):
        return False


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def browse(tmp_path: Path) -> Callable[[str, str], str]:
    """Opens a page at 1440 pixels and returns its document once it shows a text."""
    if CHROMIUM is None:
        pytest.skip("no Chromium to open pages in")
    browser: str = CHROMIUM

    def open_page(url: str, expected: str) -> str:
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1440,1000"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=30000", "--dump-dom"]
        for _ in range(3):  # a busy machine may answer later than the browser's own clock allows
            done = subprocess.run([*command, url], check=True, timeout=200, capture_output=True, text=True)
            if expected in done.stdout:
                return done.stdout
        raise AssertionError(f"{url} does not show {expected!r}: {done.stdout[:2000]}")

    return open_page


@pytest.mark.timeout(1200)
def test_a_browser_shows_the_trials_their_comparison_the_runs_and_the_report(
    study: Study, browse: Callable[[str, str], str], tmp_path: Path
) -> None:
    port = free_port()
    command = shlex.split(study.line(r"^MLflow: (mlflow ui .*) --port 5000$"))
    command = [*command, "--port", str(port), "--workers", "1"]
    with serving(command, port, "/health", tmp_path / "ui.log") as address:
        trials = browse(
            study.line(r"^  then open (.*)$").replace("http://127.0.0.1:5000", address), "s1 reg="
        )
        assert all(name in trials for name in ("s1 reg=0.7", "s1 reg=0.85", "Sort: test/AP"))
        assert ">2</span> matching runs" in trials or "2</strong> matching runs" in trials, (
            "without the parent"
        )

        page = f"{address}/#/experiments/{study.parent.info.experiment_id}/runs"
        parent = browse(f"{page}/{study.parent.info.run_id}", "Does a threshold help?")
        assert all(
            words in parent for words in ("s1 reg=0.85", "Registered models", "digits train", "<table")
        )

        best = next(run for run in study.children if run.data.tags.get("drcnn.best") == "true")
        child = browse(f"{page}/{best.info.run_id}/artifacts/samples/1.png", "samples/1.png")
        assert "<img" in child

        ids = quote(json.dumps([run.info.run_id for run in study.children]))
        experiments = quote(json.dumps([study.parent.info.experiment_id]))
        compared = browse(
            f"{address}/#/compare-runs?runs={ids}&experiments={experiments}", "Comparing 2 Runs"
        )
        assert all(words in compared for words in ("s1 reg=0.7", "s1 reg=0.85", "nms_reg"))

    report = browse(Path(study.line("^Report: (.*)$")).as_uri(), "Does a threshold help?")
    assert report.count("<img") >= 2


@pytest.mark.timeout(1200)
def test_the_published_model_answers_over_http(study: Study, tmp_path: Path) -> None:
    client = MlflowClient(default_uri(study.output))
    (version,) = client.search_model_versions("name = 'mine'")
    assert version.run_id == study.parent.info.run_id
    port = free_port()
    command = ["mlflow", "models", "serve", "-m", version.source, "--env-manager", "local"]
    command += ["-h", "127.0.0.1", "-p", str(port)]
    picture = io.BytesIO()
    Image.new("RGB", (120, 80), "white").save(picture, format="PNG")
    request = [[base64.b64encode(picture.getvalue()).decode()]]
    with serving(command, port, "/ping", tmp_path / "serve.log") as address:
        (found,) = ask(address, request)["predictions"]
        assert set(found) == {"boxes", "scores", "labels"}
        assert len(found["boxes"]) == len(found["scores"]) == len(found["labels"])
        assert all(0 <= x1 <= x2 <= 120 and 0 <= y1 <= y2 <= 80 for x1, y1, x2, y2 in found["boxes"])
        assert found["scores"] == sorted(found["scores"], reverse=True)
        with pytest.raises(urllib.error.HTTPError) as error:
            ask(address, [["no image"]])
        assert error.value.code == 400
        assert b"image 0 is not a file in base64" in error.value.read()


def test_runs_in_mlflow_name_their_models(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", default_uri(study.output))
    checkpoint = (
        study.output / "mine" / json.loads((study.output / "mine/published.json").read_text())["checkpoint"]
    )
    best, other = sorted(study.children, key=lambda run: run.data.tags.get("drcnn.best") != "true")
    for name in (study.parent.info.run_id, best.info.run_id, "models:/mine/1"):
        assert find_model(f"mlflow:{name}").checkpoint.read_bytes() == checkpoint.read_bytes()
    folder = study.output / "trials" / other.data.tags["drcnn.trial_id"]
    assert find_model(f"mlflow:{other.info.run_id}").checkpoint == folder / "last.safetensors"
    monkeypatch.setattr("studies.record.tracking.stored_model.OUTPUT", "drcnn.trial")  # as on another machine
    with pytest.raises(ConfigError, match="weights of the published model only; those of the trial"):
        find_model(f"mlflow:{other.info.run_id}")
    with pytest.raises(ConfigError, match=r"1234 not found.*expected mlflow:RUN, the id of a run"):
        find_model("mlflow:1234")


def ask(address: str, rows: list[list[str]]) -> Any:
    body = json.dumps({"dataframe_split": {"columns": ["image"], "data": rows}}).encode()
    request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)


def test_nothing_in_the_published_model_is_a_pickle(study: Study) -> None:
    (folder,) = study.output.glob("artifacts/mine/models/*/artifacts")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"MLmodel", "artifacts/last.safetensors", "served_model.py", "input_example.json"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth"))]
    requirements = (folder / "requirements.txt").read_text().splitlines()
    assert all("==" in line and "+" not in line for line in requirements)
    assert any(line.startswith("torch==") for line in requirements)


def test_data_sets_are_logged_with_their_counts(study: Study) -> None:
    for run in (study.parent, *study.children):
        datasets = {each.dataset.name: each.dataset for each in run.inputs.dataset_inputs}
        assert set(datasets) == {"digits train", "digits val", "digits test"}
        assert json.loads(datasets["digits train"].profile)["images"] == 8
        assert all(len(dataset.digest) == 16 for dataset in datasets.values())
