"""What asks a command to end: Ctrl-C, SIGTERM (a scheduler, kill), SIGHUP (its terminal was closed)."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

__all__ = ["INTERRUPTED", "end_in_order", "hangup_ignored"]

INTERRUPTED = 130


def end_in_order(nothing_begun: str = "") -> None:
    """Let the first such signal raise KeyboardInterrupt, and a second one end the process at once.

    A SIGHUP that is ignored already, as under nohup, stays ignored. Called in the main thread.

    Args:
        nothing_begun: what KeyboardInterrupt says as long as nobody knows better.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        for each in numbers:
            signal.signal(each, lambda *_: os._exit(INTERRUPTED))
        if number == signal.SIGHUP:
            _print_to_nowhere()
        raise KeyboardInterrupt(nothing_begun)

    for each in numbers:
        signal.signal(each, interrupt)


@contextmanager
def hangup_ignored() -> Iterator[None]:
    """Start processes that a closed terminal does not end: this one does, in order. In the main thread."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _print_to_nowhere() -> None:
    """Whatever is printed to a terminal that is gone would fail, and end what is to end in order."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):
            os.dup2(nowhere, stream)
    os.close(nowhere)
