"""Terminals, folders for temporary files, and settings of the environment that a study must not mind."""

from __future__ import annotations

import codecs
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from launch_helpers import Launch, results, runs, write_study
from study_helpers import assignments

GRID = "title: λ – ±0.5\nkind: grid\ngrid: {detector.nms_reg: [0.7]}\n"
SEARCH = "title: Mine\nkind: search\ntrials: 2\nspace: {detector.stages: {low: 1, high: 4}}\n"
SETTINGS = ("--set", *assignments(training__epochs=1))


@pytest.mark.slow
def test_terminal_environment_and_long_temporary_folder_do_not_matter(output: Path, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    launch = Launch(
        output,
        write_study(output, GRID),
        *SETTINGS,
        PYTHONIOENCODING="ascii",
        LANG="C",
        TMPDIR=str(long),
        RAY_ADDRESS="1.2.3.4:6379",
        RAY_NAMESPACE="theirs",
        http_proxy="http://127.0.0.1:9",
        CUDA_VISIBLE_DEVICES="",
        MLFLOW_RUN_ID="abc",
        MLFLOW_EXPERIMENT_NAME="theirs",
    )
    status, out, err = launch.end()
    assert status == 0, err
    assert out.isascii()
    assert "lambda - +-0.5" in out
    assert [len(found) for found in runs(output, "mine")] == [1, 1]


@pytest.mark.slow
def test_a_study_goes_on_when_nobody_reads_what_it_prints(output: Path) -> None:
    launch = Launch(output, write_study(output, GRID), *SETTINGS)
    assert launch.process.stdout is not None
    launch.process.stdout.close()
    assert launch.process.wait(timeout=280) == 0
    assert len(results(output)) == 1
    assert {run.info.status for found in runs(output, "mine") for run in found} == {"FINISHED"}


def test_a_locked_record_of_a_search_is_said_in_one_line(
    output: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from studies.run_study import main

    monkeypatch.setattr("studies.search.optuna_record.LOCK_SECONDS", 0)
    study = write_study(output, SEARCH)
    (output / "mine").mkdir()
    optuna.storages.RDBStorage(f"sqlite:///{output / 'mine' / 'optuna.db'}").engine.dispose()
    with closing(sqlite3.connect(output / "mine" / "optuna.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert main([study, "--output", str(output), *SETTINGS]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "mine/optuna.db: another process has held this database for 0 s" in error


def test_a_folder_of_runs_in_the_environment_is_refused(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from studies.run_study import main

    study = write_study(output, GRID)
    arguments = [study, "--output", str(output), "--tracking-uri", "file:///tmp/mlruns", *SETTINGS]
    assert main(arguments) == 2
    assert "MLflow writes to folders no longer" in capsys.readouterr().err


def test_letters_that_a_terminal_lacks_are_spelled(monkeypatch: pytest.MonkeyPatch) -> None:
    from drcnn import plain_text

    assert "λ – ± 日".encode("latin-1", plain_text._NAME) == b"lambda - \xb1 ?"
    assert codecs.encode("\udcff", "utf-8", plain_text._NAME) == b"?"
