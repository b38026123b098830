from __future__ import annotations

import io
from collections.abc import Callable

from rich.console import Console

from drcnn.engine.record import Status
from studies.definition.plan import Plan, expand
from studies.execution.progress import Progress
from studies.worker.step_note import StepNote, epochs_begun


def test_the_table_shows_the_part_of_an_epoch_that_is_done(make_plan: Callable[..., Plan]) -> None:
    trial = expand(make_plan("title: t\nkind: grid\ngrid: {detector.nms_reg: [0.7]}\n"))[0]
    trial.folder.mkdir(parents=True)
    text = io.StringIO()
    with Progress(Console(file=text, width=100, force_terminal=True), 1) as progress:
        progress.show(trial, Status.RUNNING, {"epoch": 1})
        StepNote(trial.folder)(2, 30, 40)
    epochs = trial.config.training.epochs
    assert f"1.8/{epochs}" in text.getvalue()
    assert epochs_begun(trial.folder, 0) == 0, "a note of another time"


def test_errors_of_trials_are_no_markup_of_the_terminal(make_plan: Callable[..., Plan]) -> None:
    trial = expand(make_plan("title: t\nkind: grid\ngrid: {detector.nms_reg: [0.7]}\n"))[0]
    text = io.StringIO()
    with Progress(Console(file=text, width=200), 1) as progress:
        progress.show(trial, Status.FAILED, {}, "OSError: [/data] [red]not[/red] \x1b[2J")
    assert "OSError: [/data] [red]not[/red] \\x1b[2J" in text.getvalue()
