"""Who holds what only one process may have: told to whoever else wants it."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["Holder"]


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
        except (ValueError, KeyError, TypeError):
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
        except PermissionError:
            return False
        return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


def _system() -> str:
    """Tells running systems apart, and their spaces of process numbers; empty where that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
