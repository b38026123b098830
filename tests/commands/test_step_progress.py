from __future__ import annotations

import io

import pytest

from drcnn.commands import progress
from drcnn.commands.progress import StepProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def shown(stream: io.StringIO) -> list[str]:
    """What a terminal showed one after the other, or the lines of a file."""
    parts = stream.getvalue().replace("\r\033[K", "\n").split("\n")
    return [part for part in parts if part]


def run(steps: StepProgress, clock: Clock, epochs: int, each: int, seconds: float) -> None:
    for epoch in range(1, epochs + 1):
        for step in range(1, each + 1):
            clock.now += seconds
            steps.step(epoch, step, each)


def test_a_terminal_shows_step_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), Terminal()
    steps = StepProgress(2, stream)
    steps.phase("reading the data")
    # The first step loads and compiles: it takes long, and is no measure for the others.
    clock.now += 100
    run(steps, clock, 2, 50, 2.0)
    lines = shown(stream)
    assert lines[0] == "reading the data"
    # Of 100 steps 98 are left, of 2 s.
    assert lines[1] == "epoch 1/2  step 2/50  3:16 left"
    assert lines[49] == "epoch 1/2  trained; is evaluated, where that is due, and saved"
    assert lines[50] == "epoch 2/2  step 1/50  1:38 left"
    assert lines[-1] == "epoch 2/2  trained; is evaluated, where that is due, and saved"
    assert len(lines) == 100


def test_steps_faster_than_the_eye_are_not_all_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), Terminal()
    run(StepProgress(1, stream), clock, 1, 1001, 0.01)
    assert 15 <= len(shown(stream)) <= 22


def test_a_file_gets_a_line_a_minute_and_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), io.StringIO()
    steps = StepProgress(1, stream)
    steps.phase("reading the data")
    run(steps, clock, 1, 7300, 1.0)
    steps.clear()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "epoch 1/1  step 60/7300  2:00:40 left"
    assert len(lines) == 121
    assert "\033" not in stream.getvalue()


def test_one_step_an_epoch_is_shown_too(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), Terminal()
    run(StepProgress(3, stream), clock, 3, 1, 5.0)
    assert shown(stream) == [
        f"epoch {epoch}/3  trained; is evaluated, where that is due, and saved" for epoch in (1, 2, 3)
    ]
