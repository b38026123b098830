"""How a launch that fails ends; Ray, MLflow and the trials' work are left out."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from drcnn.files import DiskFullError
from studies.definition.plan import Plan, expand
from studies.definition.request import Request
from studies.execution.study_run import StudyRun
from studies.transfer.trial_folders import TrialFolders
from studies.transfer.trial_store import TrialStore

STUDY = "title: t\nkind: grid\ngrid: {detector.nms_reg: [0.7]}\n"


class Tracker:
    """Stands for MLflow, of which a part cannot be written."""

    def close(self, status: str, *more: Any) -> str:
        assert status == "FAILED"
        return "MLflow: sqlite lacks runs: database or disk is full"

    def __getattr__(self, name: str) -> Callable[..., str]:
        return lambda *arguments, **named: ""


def test_what_mlflow_lacks_is_said_when_the_launch_fails(
    make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise DiskFullError(errno.ENOSPC, "no space left in /data")

    monkeypatch.setattr("studies.record.tracking.store.open_tracker", lambda *arguments: Tracker())
    monkeypatch.setattr(StudyRun, "_work", fail)
    plan, out = make_plan(STUDY), io.StringIO()
    plan.folder.mkdir(parents=True)
    run = StudyRun(
        plan,
        Request("mine", output=plan.output),
        expand(plan),
        Console(file=out, width=200),
        TrialFolders(TrialStore()),
        None,
        0.0,
    )
    with pytest.raises(DiskFullError, match="no space left in /data"):
        run.run()
    assert "MLflow: sqlite lacks runs: database or disk is full\n" in out.getvalue()
