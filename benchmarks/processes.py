"""The processes that a process has started, and what these have; Linux only.

>>> import os
>>> mine = Process.of(os.getpid())
>>> mine is not None and "python" in mine.command
True
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Process", "descendants", "end"]


@dataclass(frozen=True)
class Process:
    """A process: its number, its parent's, when it began (a number may be given again), its command line."""

    pid: int
    parent: int
    began: int
    command: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """Look at a process; none if it has ended."""
        try:
            status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return None
        # The name, in brackets, may hold anything; behind it follow state, parent ... and the start.
        fields = status.rpartition(")")[2].split()
        if fields[0] == "Z":
            return None
        return cls(pid, int(fields[1]), int(fields[19]), b" ".join(words).decode(errors="replace").strip())


def descendants(pid: int) -> list[Process]:
    """Return the children of a process, theirs, and so on."""
    everybody = [Process.of(int(name)) for name in os.listdir("/proc") if name.isdecimal()]
    children: dict[int, list[Process]] = {}
    for process in filter(None, everybody):
        children.setdefault(process.parent, []).append(process)
    found, open_ = [], [pid]
    while open_:
        new = children.get(open_.pop(), [])
        found += new
        open_ += [process.pid for process in new]
    return found


def end(processes: Iterable[Process]) -> int:
    """Kill those of these processes that still run, and no other of the same number; return how many."""
    ended = 0
    for process in processes:
        now = Process.of(process.pid)
        if now is not None and now.began == process.began:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
                ended += 1
    return ended
