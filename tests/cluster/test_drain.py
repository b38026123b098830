"""A spot node that is taken back leaves Ray first: studies/machines/spot_notice.py on several hosts."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path

import pytest
from hosts import CHECKOUT, Host, make_hosts, why_not
from ray.core.generated.common_pb2 import NodeDeathInfo

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

PYTHON = f"{sys.prefix}/bin/python"
RAY = f"env RAY_AUTH_MODE=disabled RAY_USAGE_STATS_ENABLED=0 {sys.prefix}/bin/ray"
# As AWS's metadata service: a notice two minutes ahead as soon as a file is there.
METADATA = """
import datetime, http.server, pathlib
class Answer(http.server.BaseHTTPRequestHandler):
    def do_PUT(self): self.send(200, "token")
    def do_GET(self):
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=120)
        status = 200 if pathlib.Path("/root/taken").exists() else 404
        self.send(status, f'{{"action": "terminate", "time": "{until:%Y-%m-%dT%H:%M:%SZ}"}}')
    def send(self, status, text):
        self.send_response(status); self.end_headers(); self.wfile.write(text.encode())
http.server.HTTPServer(("127.0.0.1", 8100), Answer).serve_forever()
"""
NODES = """
import json, ray
ray.init(address="auto", logging_level="ERROR", log_to_driver=False)
print(json.dumps({n["NodeManagerAddress"]: [n["Alive"], n["DeathReason"]] for n in ray.nodes()}))
"""


def nodes(head: Host) -> dict[str, tuple[bool, int]]:
    """Whether Ray's nodes are alive, by address, and why not."""
    text = head.run(f"RAY_AUTH_MODE=disabled {PYTHON} -c {shlex.quote(NODES)} 2> /dev/null", timeout=120)
    found: dict[str, tuple[bool, int]] = json.loads(text.splitlines()[-1])
    return found


def test_a_node_that_aws_takes_back_is_drained_and_the_others_stay(tmp_path: Path) -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with make_hosts(["head", "spot", "other"], tmp_path, laptop="spot") as hosts:
        head, spot, other = hosts["head"], hosts["spot"], hosts["other"]
        head.run(f"{RAY} start --head --port=6379 --num-cpus=0 --include-dashboard=false", timeout=120)
        for host in (spot, other):
            host.run(f"{RAY} start --address={head.ip}:6379 --num-cpus=1", timeout=120)
        spot.start(f"{PYTHON} -c {shlex.quote(METADATA)}")
        watch = spot.start(
            f"cd {CHECKOUT}; export RAY_AUTH_MODE=disabled "
            "AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:8100; "
            f"{PYTHON} -m studies.machines.spot_notice aws {head.ip}:6379"
        )
        assert all(is_alive for is_alive, _ in nodes(head).values())
        assert watch.poll() is None
        (spot.files / "root/taken").touch()
        text, _ = watch.communicate(timeout=120)
        assert watch.returncode == 0, text
        assert "aws takes this node in 1" in text
        # It has nothing to do, so Ray ends it at once.
        limit = time.monotonic() + 60
        while (found := nodes(head))[spot.ip][0]:
            assert time.monotonic() < limit, found
        assert found[spot.ip][1] == NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED
        assert found[head.ip][0]
        assert found[other.ip][0]
