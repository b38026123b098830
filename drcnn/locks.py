"""What only one process may have: locks between processes of a machine, and who holds one since when."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from drcnn.config_errors import ConfigError
from drcnn.files import put_aside, write_text

__all__ = ["LOCK", "HeldError", "Holder", "file_lock", "held"]

# In a folder that one process at a time works in, and which process came there last.
LOCK, HOLDER = ".lock", ".holder"


class HeldError(ConfigError):
    """Another process works in a folder; the message is one line and says which, since when."""


@dataclass(frozen=True)
class Holder:
    """A process on a machine.

    Attributes:
        host: the machine's name.
        pid: of the process.
        since: when it began to hold something, UTC.
        system: the running system and its process numbers, which containers of one host may not share.
    """

    host: str
    pid: int
    since: str
    system: str = ""

    @classmethod
    def here(cls) -> Holder:
        """This process, from now on."""
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return cls(socket.gethostname(), os.getpid(), since, _system())

    @classmethod
    def from_json(cls, text: str | bytes) -> Holder:
        """Read what ``to_json`` wrote; of what cannot be read nothing is known."""
        try:
            content = json.loads(text)
            system = str(content.get("system", ""))
            return cls(str(content["host"]), int(content["pid"]), str(content["since"]), system)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return cls("an unknown machine", 0, "an unknown time")

    def to_json(self) -> str:
        """Write it down."""
        return json.dumps(asdict(self))

    @property
    def is_gone(self) -> bool:
        """Whether it was a process of this machine that has ended; of others nothing is known here."""
        if self.host != socket.gethostname() or self.pid <= 0 or self.system != _system():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (PermissionError, OverflowError):
            return False
        return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


def file_lock(path: Path, timeout: float = -1) -> FileLock:
    """The lock of a file, which is made; a folder in its place is put aside.

    Args:
        path: of the file.
        timeout: seconds to wait for another process; -1 waits for ever.
    """
    if path.is_dir():
        # Two processes may do so at once.
        with suppress(FileNotFoundError):
            put_aside(path)
    return FileLock(path, timeout=timeout)


@contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Work in a folder alone; another process that wants to is told who does.

    Args:
        folder: made if it is not there.
        what: the folder is in use for, for the message: "runs/one is being trained".

    Raises:
        HeldError: another process works there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, holder = file_lock(folder / LOCK, timeout=0), folder / HOLDER
    try:
        lock.acquire()
    except Timeout:
        raise HeldError(f"{what}: {_who(holder)}; wait, end it, or give another --output") from None
    try:
        with suppress(OSError):
            write_text(holder, Holder.here().to_json())
        yield
    finally:
        lock.release()


def _who(holder: Path) -> str:
    try:
        return str(Holder.from_json(holder.read_bytes()))
    except OSError:
        return "another process"


def _system() -> str:
    """Tells running systems apart, and their spaces of process numbers; empty where that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
