from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studies.definition.errors import StudyError
from studies.definition.plan import Plan
from studies.definition.request import Request
from studies.execution.report_command import report, try_report
from studies.record.launch_request import keep_request


def test_a_fault_in_the_report_is_one_line_and_costs_nothing(
    make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> list[Path]:
        raise ValueError("no\nsuch figure")

    monkeypatch.setattr("studies.report.report.write_report", broken)
    files, line = try_report(make_plan("nms_sweep"), [])
    assert files == []
    assert line == "Report: could not be written: ValueError: no such figure"


def test_launches_of_an_output_folder_are_named(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("nms_sweep")
    plan.folder.mkdir(parents=True)
    keep_request(plan, Request("nms_sweep", output=plan.output))
    with pytest.raises(StudyError, match=r"report table_03: .* those it holds: nms_sweep"):
        report("table_03", plan.output)
