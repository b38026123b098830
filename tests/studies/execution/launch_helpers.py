"""Launches of the command line in processes of their own, and what they leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from studies.record.tracking.addresses import default_uri

ROOT = Path(__file__).resolve().parents[3]


class Launch:
    """One process of the command line."""

    program: tuple[str, ...] = (str(ROOT / "studies" / "run_study.py"),)

    def __init__(self, output: Path, *arguments: str, **environment: str) -> None:
        self.output = output
        command = [
            sys.executable,
            *self.program,
            *arguments,
            "--output",
            str(output),
        ]
        # Elsewhere than the checkout, which workers must find all the same.
        self.process = subprocess.Popen(
            command,
            cwd=output if output.exists() else output.parent,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def end(self) -> tuple[int, str, str]:
        """Wait; return status, stdout, stderr."""
        out, err = self.process.communicate(timeout=280)
        return self.process.returncode, out, err

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait for a condition while the process lives."""
        limit = time.monotonic() + 200
        while not ready():
            assert self.process.poll() is None, self.end()
            assert time.monotonic() < limit, "waited too long"
            time.sleep(0.05)


def results(output: Path, pattern: str = "*") -> dict[str, dict[str, Any]]:
    """Every finished trial's record, by id."""
    return {
        path.parent.name: json.loads(path.read_text())
        for path in output.glob(f"trials/{pattern}/result.json")
    }


def runs(output: Path, experiment: str) -> tuple[list[Run], list[Run]]:
    """Parents and children of a study."""
    client = MlflowClient(default_uri(output))
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    children = [run for run in found if "mlflow.parentRunId" in run.data.tags]
    return [run for run in found if run not in children], children


def steps(output: Path, run: Run) -> list[int]:
    client = MlflowClient(default_uri(output))
    return [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")]


def write_study(output: Path, text: str) -> str:
    path = output / "mine.yaml"
    path.write_text(text)
    return str(path)
