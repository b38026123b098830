"""Who holds what only one process may have: told to whoever else wants it."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

__all__ = ["Holder"]


@dataclass(frozen=True)
class Holder:
    """A process on a machine.

    Attributes:
        host: the machine's name.
        pid: of the process.
        since: when it began to hold something, UTC.
    """

    host: str
    pid: int
    since: str

    @classmethod
    def here(cls) -> Holder:
        """This process, from now on."""
        return cls(socket.gethostname(), os.getpid(), datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Holder:
        """Read what ``to_json`` wrote; of what cannot be read nothing is known."""
        try:
            content = json.loads(text)
            return cls(str(content["host"]), int(content["pid"]), str(content["since"]))
        except (ValueError, KeyError, TypeError):
            return cls("an unknown machine", 0, "an unknown time")

    def to_json(self) -> str:
        """Write it down."""
        return json.dumps(asdict(self))

    @property
    def is_gone(self) -> bool:
        """Whether it was a process of this machine that has ended; of others nothing is known here."""
        if self.host != socket.gethostname() or self.pid <= 0:
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
