"""Waits for the cloud's notice that it takes this spot node back, and drains the node in Ray.

A drained node gets no new trials; those that run there ask Ray every second whether their node is drained
(``studies.worker.notice``), are saved and go on elsewhere. Started on each GPU node by ``cluster/gpu.yaml``
and ``gcp.yaml``:

    python -m studies.machines.spot_notice aws HEAD:6379
    python -m studies.machines.spot_notice gcp HEAD:6379

AWS gives two minutes (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html),
Google 30 seconds (https://cloud.google.com/compute/docs/instances/preemptible): until the node is drained
some 5 are gone, and a large detector's checkpoint may then be too late. Nodes on demand never get a
notice. The clouds' own environment variables name another metadata server:
``AWS_EC2_METADATA_SERVICE_ENDPOINT`` and ``GCE_METADATA_HOST``.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

__all__ = ["aws_seconds_left", "drain", "drain_until_done", "gcp_seconds_left", "main", "watch"]

# Seconds between two questions, and between two tries to drain.
PERIOD = 1.0
TIMEOUT = 5.0


def aws_seconds_left() -> int | None:
    """Seconds until AWS takes this node, or None while it does not mean to.

    Raises:
        OSError: the metadata service does not answer.
    """
    server = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254").rstrip("/")
    # Version 2 of the service: every question needs a token.
    token = _ask(f"{server}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, method="PUT")
    header = {"X-aws-ec2-metadata-token": token}
    try:
        found = json.loads(_ask(f"{server}/latest/meta-data/spot/instance-action", header))
    except urllib.error.HTTPError as error:
        if error.code == 404:  # no notice yet
            return None
        raise
    until = datetime.strptime(found["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return max(0, int((until - datetime.now(UTC)).total_seconds()))


def gcp_seconds_left() -> int | None:
    """Seconds until Google takes this node, or None while it does not mean to.

    Raises:
        OSError: the metadata service does not answer.
    """
    server = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    path = "computeMetadata/v1/instance/preempted"
    return 30 if _ask(f"http://{server}/{path}", {"Metadata-Flavor": "Google"}) == "TRUE" else None


CLOUDS: dict[str, Callable[[], int | None]] = {"aws": aws_seconds_left, "gcp": gcp_seconds_left}


def _ask(url: str, headers: dict[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        text: str = answer.read().decode()
    return text.strip()


def watch(seconds_left: Callable[[], int | None], wait: Callable[[float], None] = time.sleep) -> int:
    """Ask until there is a notice; return the seconds that are left.

    A question without an answer is asked again: nothing is lost but the warning.
    """
    is_silent = False
    while True:
        try:
            left = seconds_left()
        except (OSError, ValueError, KeyError) as error:
            if not is_silent:
                print(f"spot_notice: the metadata service: {error}", file=sys.stderr, flush=True)
            is_silent, left = True, None
        else:
            is_silent = False
        if left is not None:
            return left
        wait(PERIOD)


def drain(gcs: str, seconds: int) -> None:
    """Tell Ray that this machine goes away.

    Args:
        gcs: address of Ray's head, HOST:PORT.
        seconds: until the machine is gone.

    Raises:
        RuntimeError: Ray refused.
        LookupError: no worker node of this machine is alive in Ray.
        ray.exceptions.RayError: the head does not answer.
    """
    # As `ray drain-node` does, but in this process: another one would take three seconds to start.
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]

    client = GcsClient(address=gcs)
    nodes = _nodes_here(client, gcs)
    if not nodes:
        raise LookupError(f"no worker node of this machine is alive in the Ray at {gcs}")
    until = int((time.time() + seconds) * 1000)
    reason = DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
    for node in nodes:
        accepted, why = client.drain_node(node, reason, "the cloud takes this spot node back", until)
        if not accepted:
            raise RuntimeError(f"Ray does not drain node {node}: {why}")


def drain_until_done(gcs: str, seconds: int, wait: Callable[[float], None] = time.sleep) -> None:
    """Drain this machine, again and again until Ray has taken it, or the machine and this process are gone.

    Args:
        gcs: address of Ray's head, HOST:PORT.
        seconds: until the machine is gone.
        wait: sleeps.
    """
    until, said = time.monotonic() + seconds, ""
    while True:
        try:
            return drain(gcs, max(0, int(until - time.monotonic())))
        except Exception as error:  # whatever it is, nothing better can be done in this time
            if str(error) != said:
                said = str(error)
                print(f"spot_notice: not drained, trying again: {said}", file=sys.stderr, flush=True)
        wait(PERIOD)


def _nodes_here(client: Any, gcs: str) -> list[str]:
    """Ids of the worker nodes that Ray has at this machine's address."""
    import ray
    from ray.core.generated.gcs_pb2 import GcsNodeInfo  # type: ignore[attr-defined]

    here = ray.util.get_node_ip_address(gcs)  # type: ignore[no-untyped-call]
    nodes = client.get_all_node_info(timeout=10)
    return [
        node_id.hex()
        for node_id, node in nodes.items()
        if node.state == GcsNodeInfo.ALIVE and node.node_manager_address == here and not node.is_head_node
    ]


def main(arguments: list[str]) -> int:
    """Watch and drain; 2 if the arguments are wrong."""
    if len(arguments) != 2 or arguments[0] not in CLOUDS or ":" not in arguments[1]:
        print("usage: python -m studies.machines.spot_notice aws|gcp HEAD:PORT", file=sys.stderr)
        return 2
    cloud, gcs = arguments
    seconds = watch(CLOUDS[cloud])
    print(f"spot_notice: {cloud} takes this node in {seconds} s; draining it", flush=True)
    drain_until_done(gcs, seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
