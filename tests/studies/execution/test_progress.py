from __future__ import annotations

import io
from collections.abc import Callable

from rich.console import Console

from drcnn.engine.record import Status
from studies.definition.plan import Plan, expand
from studies.execution.progress import Progress


def test_errors_of_trials_are_no_markup_of_the_terminal(make_plan: Callable[..., Plan]) -> None:
    trial = expand(make_plan("title: t\nkind: grid\ngrid: {detector.nms_reg: [0.7]}\n"))[0]
    text = io.StringIO()
    with Progress(Console(file=text, width=200), 1) as progress:
        progress.show(trial, Status.FAILED, {}, "OSError: [/data] [red]not[/red] \x1b[2J")
    assert "OSError: [/data] [red]not[/red] \\x1b[2J" in text.getvalue()
