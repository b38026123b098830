"""Where a launch prints: its display must not end a study."""

from __future__ import annotations

import os
import sys

from rich.console import Console

__all__ = ["StudyConsole", "say_phase"]


def say_phase(words: str) -> None:
    """Say what a launch does now, before its table appears, where somebody watches."""
    if sys.stderr.isatty():
        print(f"{words} ...", file=sys.stderr, flush=True)


class StudyConsole(Console):
    """A console as wide as the terminal, as ``$COLUMNS`` says, or of 80 columns.

    It prints nothing more when nobody reads on, as after ``| head``.
    """

    def on_broken_pipe(self) -> None:
        """Go on in silence; rich would end the process."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
