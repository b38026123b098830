"""The clouds' notice that a spot node is taken back, from metadata servers on this machine."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from studies.machines.spot_notice import aws_seconds_left, drain, gcp_seconds_left, main, watch

TOKEN = "a-token"


class Metadata(ThreadingHTTPServer):
    """Answers as both clouds' metadata services do."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.aws_notice: str | None = None
        self.is_preempted = False
        self.broken = 0


class Answer(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        assert isinstance(self.server, Metadata)
        if self.server.broken:
            self.server.broken -= 1
            return self._send(503, "later")
        is_right = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        return self._send(200, TOKEN) if is_right else self._send(400, "")

    def do_GET(self) -> None:
        assert isinstance(self.server, Metadata)
        if self.path == "/computeMetadata/v1/instance/preempted":
            if self.headers["Metadata-Flavor"] != "Google":
                return self._send(403, "")
            return self._send(200, "TRUE" if self.server.is_preempted else "FALSE")
        if self.headers["X-aws-ec2-metadata-token"] != TOKEN:
            return self._send(401, "")
        is_known = self.path == "/latest/meta-data/spot/instance-action" and self.server.aws_notice
        return self._send(200, str(self.server.aws_notice)) if is_known else self._send(404, "")

    def _send(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    server = Metadata()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://{address}/")
    monkeypatch.setenv("GCE_METADATA_HOST", address)
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def notice(seconds: int) -> str:
    until = datetime.now(UTC) + timedelta(seconds=seconds)
    return f'{{"action": "terminate", "time": "{until:%Y-%m-%dT%H:%M:%SZ}"}}'


def test_aws_says_until_when_a_node_lives(metadata: Metadata) -> None:
    assert aws_seconds_left() is None
    metadata.aws_notice = notice(120)
    left = aws_seconds_left()
    assert left is not None
    assert 100 <= left <= 120
    metadata.aws_notice = notice(-10)
    assert aws_seconds_left() == 0


def test_google_says_that_a_node_is_preempted(metadata: Metadata) -> None:
    assert gcp_seconds_left() is None
    metadata.is_preempted = True
    assert gcp_seconds_left() == 30


def test_the_watch_asks_again_when_nobody_answers(
    metadata: Metadata, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata.broken = 2
    waited = list[float]()

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 4:
            metadata.aws_notice = notice(60)

    assert 40 <= watch(aws_seconds_left, wait) <= 60
    assert len(waited) == 4
    # Said once, not at every question.
    assert capsys.readouterr().err.count("the metadata service: HTTP Error 503") == 1


def test_a_notice_drains_the_node_in_ray(metadata: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = list[list[str]]()

    def note(command: list[str], **_: Any) -> None:
        ran.append(command)

    monkeypatch.setattr("studies.machines.spot_notice._nodes_here", lambda gcs: ["0a1b"])
    monkeypatch.setattr(subprocess, "run", note)
    metadata.is_preempted = True
    assert main(["gcp", "10.0.0.1:6379"]) == 0
    ((ray, verb, *options),) = ran
    assert (ray.endswith("/ray"), verb) == (True, "drain-node")
    assert {"--address=10.0.0.1:6379", "--node-id=0a1b", "--deadline-remaining-seconds=30"} <= set(options)


def test_ray_has_the_command_and_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.scripts.scripts import cli

    def parse(command: list[str], **_: Any) -> None:
        cli.commands["drain-node"].make_context("ray", command[2:])

    monkeypatch.setattr("studies.machines.spot_notice._nodes_here", lambda gcs: ["0a1b"])
    monkeypatch.setattr(subprocess, "run", parse)
    drain("10.0.0.1:6379", 30)


def test_without_a_node_in_ray_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studies.machines.spot_notice._nodes_here", lambda gcs: [])
    with pytest.raises(LookupError, match=r"no worker node .* 10\.0\.0\.1:6379"):
        drain("10.0.0.1:6379", 30)


@pytest.mark.parametrize("arguments", [[], ["azure", "a:1"], ["aws", "head"]])
def test_wrong_arguments_are_answered_with_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert "spot_notice aws|gcp HEAD:PORT" in capsys.readouterr().err


def test_the_watch_needs_nothing_heavy() -> None:
    """It runs on every GPU node for as long as that lives."""
    code = "import sys, studies.machines.spot_notice; print({'ray', 'torch', 'mlflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
