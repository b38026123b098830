"""The clouds' notice that a spot node is taken back, from metadata servers on this machine."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.gcs_pb2 import GcsNodeInfo
from ray.exceptions import RpcError

from studies.machines.spot_notice import (
    aws_seconds_left,
    drain,
    drain_until_done,
    gcp_seconds_left,
    main,
    watch,
)

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


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A real Ray with a head and one worker node, which has the address of this machine."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def alive(head: Cluster) -> int:
    nodes = GcsClient(address=head.address).get_all_node_info(timeout=30).values()
    return sum(node.state == GcsNodeInfo.ALIVE for node in nodes)


@pytest.mark.slow
def test_a_notice_drains_the_node_in_ray(metadata: Metadata, head: Cluster) -> None:
    assert alive(head) == 2
    metadata.is_preempted = True
    assert main(["gcp", head.address]) == 0
    # It has nothing to do, so Ray ends it at once.
    limit = time.monotonic() + 60
    while alive(head) > 1:
        assert time.monotonic() < limit
        time.sleep(0.2)
    with pytest.raises(LookupError, match=f"no worker node .* {head.address}"):
        drain(head.address, 30)


def test_a_drain_that_fails_is_tried_until_ray_takes_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    errors: list[Exception] = [RpcError("the head does not answer")] * 2 + [LookupError("no worker node")]
    asked, waited = list[int](), list[float]()

    def refuse(gcs: str, seconds: int) -> None:
        asked.append(seconds)
        if errors:
            raise errors.pop(0)

    monkeypatch.setattr("studies.machines.spot_notice.drain", refuse)
    drain_until_done("10.0.0.1:6379", 30, waited.append)
    assert len(asked) == 4
    assert all(28 <= seconds <= 30 for seconds in asked)
    assert len(waited) == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2, "each reason once"
    assert "the head does not answer" in lines[0]


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
