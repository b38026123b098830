"""Pictures of a real study for the documentation: its report, and MLflow's pages, in headless Chromium.

    python docs/screenshots.py runs/nms_sweep

writes docs/pictures/: ``report.png``, ``trials.png`` (the list of trials in MLflow, best first),
``compared.png`` (the trials side by side) and ``detected.png`` (the report's best image). Needs Chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from PIL import Image

from studies.record.tracking.addresses import UI, default_uri, trials_link

__all__ = ["take"]

PICTURES = Path(__file__).with_name("pictures")
WIDTH, HEIGHT = 1440, 900
MOST_COMPARED = 8  # trials
COLOURS = 64  # of a palette: a page needs no more, and its file is small
PATIENCE = 120.0  # seconds, for MLflow's server


def take(study: Path, folder: Path = PICTURES) -> list[Path]:
    """Take the pictures of a finished study; return their files.

    Args:
        study: the study's folder, in its launch's output folder.
        folder: gets the pictures.
    """
    uri = default_uri(study.resolve().parent)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(study.name)
    if experiment is None:
        raise SystemExit(f"{study}: no experiment {study.name!r} in {uri}")
    runs = client.search_runs([experiment.experiment_id], order_by=["metrics.`test/AP` DESC"])
    parent = next(run.info.run_id for run in runs if MLFLOW_PARENT_RUN_ID not in run.data.tags)
    children = [run.info.run_id for run in runs if run.data.tags.get(MLFLOW_PARENT_RUN_ID) == parent]
    compared = {
        "runs": json.dumps(children[:MOST_COMPARED]),
        "experiments": json.dumps([experiment.experiment_id]),
    }
    folder.mkdir(exist_ok=True)
    with _mlflow(uri) as address:
        link = trials_link(uri, experiment.experiment_id, parent, "test/AP").replace(UI, address)
        pages = {
            "report": (study / "report.html").resolve().as_uri(),
            "trials": link,
            "compared": f"{address}/#/compare-runs?{urlencode(compared)}",
        }
        pictures = [_picture(url, folder / f"{name}.png") for name, url in pages.items()]
    return [*pictures, Path(shutil.copy(study / "sample_best_1.png", folder / "detected.png"))]


@contextmanager
def _mlflow(uri: str) -> Iterator[str]:
    """MLflow's pages, served for as long as they are photographed."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--workers", "1"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(
        [*command, "--port", str(port)],
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + PATIENCE
        while not _answers(f"http://127.0.0.1:{port}/health"):
            if server.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"mlflow ui on {uri} does not answer")
            time.sleep(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _picture(url: str, path: Path) -> Path:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("no Chromium here")
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += [f"--window-size={WIDTH},{HEIGHT}", f"--user-data-dir={profile}"]
        options += ["--virtual-time-budget=30000", f"--screenshot={path}"]
        subprocess.run([browser, *options, url], check=True, capture_output=True, timeout=300)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(COLOURS).save(path, optimize=True)
    return path


def main() -> None:
    """Take the pictures of the study that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, help="a study's folder, runs/nms_sweep")
    for path in take(parser.parse_args().study):
        print(path)


if __name__ == "__main__":
    main()
