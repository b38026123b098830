"""``report NAME`` finds a launch's trials again, wherever it is run, and changes nothing but the report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from study_helpers import TINY

from drcnn.data.prepare import prepare
from drcnn.sealed import read_sealed, write_sealed
from studies.definition.errors import StudyError
from studies.definition.plan import Plan, Trial
from studies.definition.request import Request, resolve
from studies.definition.trial import Inputs
from studies.execution.report_command import Outcome, report
from studies.record.launch_request import keep_request, launch_command, load_request, was_launched
from studies.record.output_folder import study_lock
from studies.run_study import main
from studies.search.optuna_record import recorded_trials, search_key
from studies.search.searcher import StudySearcher
from studies.transfer.store import ObjectStore

SEARCH = """\
title: A small search
kind: search
trials: 4
space: {detector.nms_reg: {low: 0.6, high: 0.95, step: 0.05}}
first: [{detector.nms_reg: 0.85}]
"""


def test_a_fault_in_the_report_is_one_line_and_costs_nothing(
    make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> list[Path]:
        raise ValueError("no\nsuch figure")

    monkeypatch.setattr("studies.report.report.write_report", broken)
    files, line = Outcome(make_plan("nms_sweep"), []).write_report()
    assert files == []
    assert line == "Report: could not be written: ValueError: no such figure"


def test_launches_of_an_output_folder_are_named(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("nms_sweep")
    plan.folder.mkdir(parents=True)
    keep_request(plan, Request("nms_sweep", output=plan.output))
    with pytest.raises(StudyError, match=r"no launch of table_03; it holds: nms_sweep"):
        report("table_03", plan.output)


@pytest.fixture
def searched(tmp_path: Path, finish: Callable[..., None]) -> tuple[Plan, list[Trial]]:
    """A search that was killed: one trial finished, one running."""
    output = tmp_path / "runs"
    study = tmp_path / "mine.yaml"
    study.write_text(SEARCH)
    request = Request(str(study), output, assignments=tuple(f"{key}={value}" for key, value in TINY.items()))
    plan = Plan(*resolve(request), output, Inputs(lambda data: prepare(data, output / "data")))
    searcher = StudySearcher(plan, search_key(plan))
    trials = []
    for tune_id in "ab":
        suggestion = searcher.suggest(tune_id)
        assert isinstance(suggestion, dict)
        trials.append(suggestion["trial"])
    finish(trials[0].folder, [0.1, 0.4])
    searcher.on_trial_complete("a", {"val/AP": 0.4})
    keep_request(plan, request)
    return plan, trials


def test_margin_and_price_are_kept_with_the_launch(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("nms_sweep")
    plan.folder.mkdir(parents=True)
    keep_request(plan, Request("nms_sweep", output=plan.output))
    assert load_request("nms_sweep", plan.output).margin == 0.5
    assert "--margin" not in launch_command(plan)
    keep_request(plan, Request("nms_sweep", output=plan.output, margin=1.0))
    assert load_request("nms_sweep", plan.output).margin == 1
    assert launch_command(plan).endswith("--margin 1")
    assert load_request("nms_sweep", plan.output).price is None
    keep_request(plan, Request("nms_sweep", output=plan.output, price=1.42))
    assert load_request("nms_sweep", plan.output).price == 1.42
    assert launch_command(plan).endswith("--price 1.42")


def test_a_report_takes_another_margin_and_ends_with_the_answer(
    searched: tuple[Plan, list[Trial]], capsys: pytest.CaptureFixture[str]
) -> None:
    plan, _ = searched
    assert main(["report", "mine", "--output", str(plan.output), "--margin", "2"]) == 0
    assert "lies within ±2 points" in (plan.folder / "report.md").read_text()
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0].startswith("Report: ")
    assert lines[1] == plan.study.title
    assert lines[2].startswith("The search is not confirmed: each of its 1 finished trials")
    assert lines[-1] == "The paper has no figures of these settings."


def test_a_report_of_a_running_search_changes_nothing(searched: tuple[Plan, list[Trial]]) -> None:
    plan, trials = searched
    database = plan.folder / "optuna.db"
    before = database.read_bytes()
    with study_lock(plan):
        assert report("mine", plan.output) == 0
    assert database.read_bytes() == before
    optuna_trials = optuna.load_study(study_name=None, storage=f"sqlite:///{database}").get_trials()
    assert [trial.state.name for trial in optuna_trials] == ["COMPLETE", "RUNNING"]
    assert all(trial.id in (plan.folder / "report.md").read_text() for trial in trials)


def test_a_new_head_reports_from_the_store(searched: tuple[Plan, list[Trial]], tmp_path: Path) -> None:
    plan, trials = searched
    uri = f"file://{tmp_path}/store"
    store = ObjectStore(uri, plan.output)
    store.upload(plan.folder)
    store.upload(trials[0].folder)
    shutil.rmtree(plan.output)
    with pytest.raises(StudyError, match="no launch"):
        report("mine", plan.output)
    assert report("mine", plan.output, uri) == 0
    assert trials[0].id in (plan.folder / "report.md").read_text()
    key = search_key(plan)
    assert [trial.id for trial in recorded_trials(plan, key)] == [trial.id for trial in trials]
    # What is a copy of the store's is downloaded again: the search may have gone on elsewhere.
    assert not was_launched(plan.folder)
    (plan.folder / "optuna.db").unlink()
    assert report("mine", plan.output, uri) == 0
    assert len(recorded_trials(plan, key)) == 2
    keep_request(plan, load_request("mine", plan.output))
    assert was_launched(plan.folder)


def test_a_name_that_the_store_does_not_know_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with pytest.raises(StudyError, match="no launch of nms_swep"):
        report("nms_swep", tmp_path / "runs", f"file://{tmp_path}/store")
    assert not (tmp_path / "runs" / "nms_swep").exists()


def test_a_store_that_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(store: ObjectStore, folder: Path) -> None:
        raise OSError("AWS Error ACCESS_DENIED")

    monkeypatch.setattr(ObjectStore, "download", refuse)
    with pytest.raises(StudyError, match="--storage: AWS Error ACCESS_DENIED"):
        report("nms_sweep", tmp_path / "runs", f"file://{tmp_path}/store")


def test_data_that_moved_in_their_store_are_found_where_they_are_here(
    make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    plan = make_plan("nms_sweep", source=f"voc:{tmp_path}")
    plan.folder.mkdir(parents=True)
    keep_request(plan, Request("nms_sweep", source="voc:s3://bucket/VOC"))
    assert load_request("nms_sweep", plan.output).source == f"voc:{tmp_path}"
    content = read_sealed(plan.folder / "request.json")
    write_sealed(plan.folder / "request.json", content | {"local_source": "voc:/absent"})
    assert load_request("nms_sweep", plan.output).source == "voc:s3://bucket/VOC"


def test_a_plus_in_the_name_of_the_data_does_not_split_it(
    make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    folder = tmp_path / "night+day"
    folder.mkdir()
    plan = make_plan("nms_sweep", source=f"voc:{folder}")
    plan.folder.mkdir(parents=True)
    keep_request(plan, Request("nms_sweep", source=str(folder)))
    assert load_request("nms_sweep", plan.output).source == f"voc:{folder}"


def test_a_request_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    content = {
        "study": "nms_sweep",
        "output": "/elsewhere",
        "profile": "laptop",
        "source": "digits",
        "assignments": ["training.epochs=2"],
        "seeds": 3,
        "on_bad_data": "skip",
        "workers": 4,
        "gpus_per_worker": 1.0,
        "max_concurrent": None,
        "address": "auto",
        "storage": None,
        "tracking_uri": None,
        "dry_run": False,
        "smoke": True,
        "fresh": True,
    }
    folder = tmp_path / "nms_sweep-smoke"
    folder.mkdir()
    (folder / "request.json").write_text(json.dumps(content))
    assert load_request("nms_sweep-smoke", tmp_path) == Request(
        "nms_sweep",
        tmp_path,
        assignments=("training.epochs=2",),
        seeds=3,
        on_bad_data="skip",
        smoke=True,
    )


def test_an_address_with_a_password_is_not_kept(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("nms_sweep")
    plan.folder.mkdir(parents=True)
    secret = Request(
        "nms_sweep", source="voc:s3://key:secret@bucket/VOC", storage="s3://k:s@b", tracking_uri="x"
    )
    keep_request(plan, secret)
    assert "secret" not in (plan.folder / "request.json").read_text()
