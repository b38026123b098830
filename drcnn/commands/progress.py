"""Where a run is within an epoch, and how long it still takes: on standard error, for people who wait."""

from __future__ import annotations

import sys
import time
from typing import TextIO

__all__ = ["StepProgress"]

# Seconds between two signs of life: a line that redraws itself, or lines in a file.
REDRAW, LINE = 0.5, 60.0


class StepProgress:
    """Shows the step of an epoch and the time left, at the pace of this run so far.

    Args:
        epochs: in all.
        stream: where to; a terminal gets one line that redraws itself, anything else a line a minute.
    """

    def __init__(self, epochs: int, stream: TextIO | None = None) -> None:
        self._epochs, self._stream = epochs, stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._began: tuple[float, int] | None = None
        self._shown = time.monotonic()

    def phase(self, words: str) -> None:
        """Say what is done now, where somebody watches."""
        if self._is_terminal:
            self._draw(words)

    def step(self, epoch: int, step: int, steps: int) -> None:
        """A step ended.

        Args:
            epoch: counted from 1, as ``step`` is.
            step: of the epoch.
            steps: of each epoch.
        """
        now, done = time.monotonic(), (epoch - 1) * steps + step
        if step == steps and self._is_terminal:
            self._draw(f"epoch {epoch}/{self._epochs}  trained; is evaluated, where that is due, and saved")
        if self._began is None:
            self._began = now, done  # the first step also loads and compiles
            return
        if step == steps or now - self._shown < (REDRAW if self._is_terminal else LINE):
            return
        self._shown = now
        since, before = self._began
        left = round((self._epochs * steps - done) * (now - since) / (done - before))
        hours, rest = divmod(left, 3600)
        clock = f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
        self._draw(f"epoch {epoch}/{self._epochs}  step {step}/{steps}  {clock} left")

    def clear(self) -> None:
        """Leave the line to something else."""
        if self._is_terminal:
            self._stream.write("\r\033[K")
            self._stream.flush()

    def _draw(self, text: str) -> None:
        self._stream.write(f"\r\033[K{text}" if self._is_terminal else f"{text}\n")
        self._stream.flush()
