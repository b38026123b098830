"""Every file of an output, damaged: the same command ends with the undisturbed figures, or names the file."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from launch_helpers import Launch, results, write_study
from study_helpers import assignments

from drcnn.engine.record import read_record
from tests.damage import DAMAGES

pytestmark = [pytest.mark.faults, pytest.mark.slow]

EPOCHS = 4
# A detector is trained, and evaluated in two ways; then a second one, and the launch is killed meanwhile.
STUDY = "title: Mine\nkind: grid\ngrid: {{training.lr: {rates}, detector.nms_final: [0.5, 0.6]}}\n"
FINISHED = "trials/FINISHED"
BEGUN = "trials/BEGUN"
RECORD = ("config.yaml", "detections.parquet", "result.json")
# What lies in an output that a launch left when it was killed.
FILES = [
    *(f"{FINISHED}/{name}" for name in (*RECORD, "last.safetensors", ".resamples.npz")),
    *(f"{FINISHED}/evaluations/*/{name}" for name in RECORD),
    *(f"{BEGUN}/{name}" for name in ("config.yaml", "last.safetensors", ".previous-last.safetensors")),
    "mine/request.json",
    "mine/results.parquet",
    "mine/published.json",
    "data/digits-train-*.arrow",
    "data/digits-test-*.arrow",
    "data/digits-test-*.arrow.sha256",
]


def command(output: Path) -> list[str]:
    return [
        str(output / "mine.yaml"),
        "--max-concurrent",
        "1",
        "--set",
        *assignments(training__epochs=EPOCHS),
    ]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[tuple[Path, Path]]:
    """An output of a launch that was killed, and the same after another launch."""
    folder = tmp_path_factory.mktemp("outputs")
    (folder / "interrupted").mkdir()
    output = folder / "interrupted"
    shutil.copy(migrated, output / "mlflow.db")
    write_study(output, STUDY.format(rates=[0.01]))
    status, _, err = Launch(output, *command(output)).end()
    assert status == 0, err
    write_study(output, STUDY.format(rates=[0.01, 0.02]))
    launch = Launch(output, *command(output))
    launch.wait_until(lambda: any(output.glob("trials/*/.previous-*")))
    os.kill(launch.process.pid, signal.SIGKILL)
    launch.end()
    shutil.copytree(output, folder / "whole")
    status, _, err = Launch(folder / "whole", *command(folder / "whole")).end()
    assert status == 0, err
    yield output, folder / "whole"


def comparable(output: Path) -> dict[str, Any]:
    """Every trial's curve, without times."""
    return {
        trial: [
            {key: value for key, value in epoch.items() if not key.startswith("perf/")} for epoch in history
        ]
        for trial, history in ((trial, record["history"]) for trial, record in results(output).items())
    }


def find(output: Path, file: str) -> Path:
    ended = [folder for folder in output.glob("trials/*") if read_record(folder).is_finished]
    begun = [folder for folder in output.glob("trials/*") if folder not in ended]
    names = {"FINISHED": ended[0].name, "BEGUN": begun[0].name}
    for word, name in names.items():
        file = file.replace(word, name)
    (path,) = output.glob(file)
    return path


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(damage, marks=[] if damage == "one bit flipped" else pytest.mark.long)
        for damage in DAMAGES
    ],
)
def test_the_same_command_ends_well(
    file: str, damage: str, outputs: tuple[Path, Path], tmp_path: Path
) -> None:
    interrupted, whole = outputs
    output = tmp_path / "interrupted"
    shutil.copytree(interrupted, output)
    path = find(output, file)
    DAMAGES[damage](path)
    status, out, err = Launch(output, *command(output)).end()
    assert status == 0, err
    assert "Traceback" not in out + err
    assert comparable(output) == comparable(whole)
    (found, expected) = (read_table(folder / "mine" / "results.parquet") for folder in (output, whole))
    assert found == expected


def read_table(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    timed = ("perf/", "seconds")
    return [
        {key: repr(value) for key, value in row.items() if not key.startswith(timed)}
        for row in pq.read_table(path).to_pylist()
    ]
