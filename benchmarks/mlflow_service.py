"""MLflow's server as a service is run: on this machine, and started again wherever it was killed."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.processes import Process, descendants, end

__all__ = ["Server"]


class Server:
    """MLflow's server on a free port.

    Args:
        folder: of its database, its files and its log.
    """

    def __init__(self, folder: Path) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self._port: int = listener.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        store, files = f"sqlite:///{folder}/server.db", folder / "artifacts"
        address = ["--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        kept = ["--backend-store-uri", store, "--artifacts-destination", str(files)]
        self._command = [sys.executable, "-m", "mlflow", "server", *address, *kept]
        self._log = folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it unless it runs."""
        if self.process is not None and self.process.poll() is None:
            return
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)

    def wait(self, seconds: float = 300.0) -> None:
        """Wait until it answers: a launch that finds no server ends with status 2."""
        ends = time.monotonic() + seconds
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=5).close()
                return
            except OSError:
                if time.monotonic() > ends:
                    raise
            time.sleep(0.5)

    def stop(self) -> None:
        """End it, and what it has started."""
        if self.process is not None:
            end([*descendants(self.process.pid), *filter(None, [Process.of(self.process.pid)])])
            self.process.wait()
