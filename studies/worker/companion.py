"""The companion of a trial's process: kills it when it hangs, and tells when the kernel has killed it.

    companion.py PID MARKS STACKS NOTE WITHIN BETWEEN

A program of its own that imports nothing else, so that it is small and starts at once; ``watch`` starts it.
The kernel tells where it has /proc, as on Linux; elsewhere only hanging is seen.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["BATCH", "BETWEEN", "END", "PAUSE", "STOPPED", "main"]

# Marks: a batch is worked on, something else is, one waits for others, the work is done.
BATCH, BETWEEN, PAUSE, END = b"b", b"o", b"p", b"e"
STOPPED = "was stopped (SIGSTOP)"
# So many times the longest wait so far is no longer slow, but hung.
TIMES = 20
TICK = 1.0
# Seconds that a worker which only waits for a stopped one is killed later: the reason is the stopped one's.
GRACE = 3
# Seconds that stacks may take, and of silence after which they are written: who was stopped works meanwhile.
STACKS_SECONDS = 3.0
STACKS_SILENCE = 0.3
# A process that the kernel kills needs seconds to go if it has many gibibytes; an earlier kill was another's.
RECENT = 10.0
# Where the kernel counts its kills for want of memory: in this container, else anywhere.
COUNTERS = ("/sys/fs/cgroup/memory.events", "/proc/vmstat")
GIB = 2**30


def main(arguments: list[str]) -> None:
    """Wait for marks until the work is done, the process is gone, or it hangs."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    pid, marks, stacks = map(int, arguments[:3])
    note = Path(arguments[3])
    floors = {BATCH: float(arguments[4]), BETWEEN: float(arguments[5])}
    longest = dict.fromkeys(floors, 0.0)
    kills, memory = _RecentKills(), 0
    state, silent = BETWEEN, 0.0
    while True:
        begun = time.monotonic()
        readable, _, _ = select.select([marks], [], [], TICK)
        # While the whole machine was suspended or starved nothing could come: that is no silence.
        silent += min(time.monotonic() - begun, TICK)
        received = os.read(marks, 4096) if readable else b""
        if received.endswith(END):
            return
        if os.getppid() != pid or (readable and not received):
            _tell_of_memory(note, kills, memory)
            return
        memory = _resident(pid) or memory
        kills.look()
        if received:
            if state in longest:
                longest[state] = max(longest[state], silent)
            state, silent = received[-1:], 0.0
        else:
            # The first batch may take as long as all else: it compiles, or fills a memory that is swapped.
            usual = longest.get(state, 0.0)
            allowed = max(floors[state if usual else BETWEEN], TIMES * usual)
            stopped = _stopped(pid) if silent > allowed else []
            # Who waits for others may do so for ever, but not stopped.
            if stopped or (state in floors and silent > allowed + GRACE):
                _kill(pid, stacks, note, _reason(pid, stopped, state, silent, longest[BATCH]))
                return


def _reason(pid: int, stopped: list[int], state: bytes, silent: float, usual: float) -> str:
    what = "no batch" if state == BATCH else "no batch and no other sign of life"
    slowest = f" (the slowest took {usual:.1f} s)" if usual else ""
    if pid in stopped:
        why = f"its process {pid} {STOPPED}"
    elif stopped:
        why = f"its loader process {stopped[0]} {STOPPED}"
    else:
        why = f"its process {pid} hung"
    return f"{what} for {silent:.0f} s{slowest}: {why} on {socket.gethostname()} and was killed"


def _kill(pid: int, stacks: int, note: Path, reason: str) -> None:
    processes = [*_children(pid), pid]
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGUSR2)
            os.kill(process, signal.SIGCONT)  # else a stopped one cannot write its stack
    texts: list[str] = []
    ends = time.monotonic() + STACKS_SECONDS
    while (left := ends - time.monotonic()) > 0:
        if not select.select([stacks], [], [], min(left, STACKS_SILENCE) if texts else left)[0]:
            break
        text = os.read(stacks, 65536)
        if not text:
            break
        texts.append(text.decode(errors="replace"))
    # Before the kill: the reason must be there when the driver asks for it.
    with suppress(OSError):
        _write(note, f"{reason}; its stacks are in {note}\n\n{''.join(texts)}")
    for process in [*_children(pid), *processes]:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


class _RecentKills:
    """Whether the kernel has killed for want of memory within the last ``RECENT`` seconds.

    Not since the work began: hours ago it may have killed another process of this machine.
    """

    def __init__(self) -> None:
        self._counts: list[tuple[float, int | None]] = []
        self.look()

    def look(self) -> None:
        """Take the count, once a second at most."""
        now = time.monotonic()
        if not self._counts or now - self._counts[-1][0] >= TICK:
            self._counts.append((now, _kills_for_memory()))
        # The newest of those that are old enough stays, to compare with.
        while len(self._counts) > 1 and now - self._counts[1][0] >= RECENT:
            del self._counts[0]

    def has_more(self) -> bool:
        """Whether it has killed since the count that was taken so long ago."""
        before, now = self._counts[0][1], _kills_for_memory()
        return before is not None and now is not None and now > before


def _tell_of_memory(note: Path, kills: _RecentKills, memory: int) -> None:
    """Leave a note if the kernel has killed for want of memory just now."""
    time.sleep(TICK)  # the kernel counts a kill a little later
    if kills.has_more():
        size = f" it had {memory / GIB:.1f} GiB;" if memory else ""
        with suppress(OSError):
            _write(
                note,
                f"out of memory: the kernel killed the process on {socket.gethostname()};{size} lower "
                "training.batch_size, or run fewer trials at once (--max-concurrent)\n",
            )


def _write(note: Path, text: str) -> None:
    draft = note.with_name(f".{note.name}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(note)


def _kills_for_memory() -> int | None:
    """How many processes the kernel has killed for want of memory; none if that is not known."""
    for path in COUNTERS:
        with suppress(OSError):
            for line in Path(path).read_text(encoding="ascii").splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
    return None


def _resident(pid: int) -> int:
    """Bytes of memory that a process has; 0 if that cannot be told."""
    with suppress(OSError, ValueError, IndexError):
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _children(pid: int) -> list[int]:
    """The processes that a process has started and that these have, without its companion."""
    parents = {process: parent for process, (_, parent) in _processes().items()}
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        started = [process for process in parents if parents[process] == parent and process != os.getpid()]
        found += started
        waiting += started
    return found


def _stopped(pid: int) -> list[int]:
    """Which of a process and its children are stopped."""
    processes = _processes()
    return [each for each in (pid, *_children(pid)) if processes.get(each, ("", 0))[0] == "T"]


def _processes() -> dict[int, tuple[str, int]]:
    """State and parent of each process."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            # The name, in parentheses, may hold anything.
            state, parent = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:2]
            found[int(path.parent.name)] = state, int(parent)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
