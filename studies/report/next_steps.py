"""What a launch ends with: where its results are, and the commands that go on from there."""

from __future__ import annotations

import shlex
from pathlib import Path

from drcnn.trained_model import PUBLISHED
from studies.definition.plan import Plan
from studies.record.launch_request import as_typed
from studies.record.tracking.addresses import ui_command

__all__ = ["next_steps"]


def next_steps(plan: Plan, tracking_uri: str, trials_link: str, report_line: str) -> list[str]:
    """Lines to print, the last of a launch.

    Args:
        plan: the study.
        tracking_uri: of MLflow's record.
        trials_link: the address of the page that lists the trials.
        report_line: where the report is, or why there is none.
    """
    table = plan.folder / "results.parquet"
    command = ui_command(tracking_uri)
    is_address = trials_link.startswith(command)
    lines = [f"Table: {table}"] if table.exists() else []
    lines += [report_line]
    lines += (
        [f"MLflow: {trials_link}"] if is_address else [f"MLflow: {command}", f"  then open {trials_link}"]
    )
    if (plan.folder / PUBLISHED).exists():
        model = shlex.quote(as_typed(plan.folder))
        lines.append(f"Detect: drcnn predict {model} IMAGES --output {_output(plan.folder)}")
    return lines


def _output(folder: Path) -> str:
    return shlex.quote(as_typed(folder / "found"))
