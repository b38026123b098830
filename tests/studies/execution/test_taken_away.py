"""A spot node that is taken back while a trial trains on it, on a real Ray of three nodes."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from launch_helpers import Launch, results, runs, steps, write_study
from ray.cluster_utils import Cluster
from study_helpers import assignments

from drcnn.engine.checkpoint import read_state

ONE = "title: Mine\nkind: grid\ngrid: {detector.nms_reg: [0.7]}\n"
EPOCHS = 2


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that trains nothing, and two nodes for two workers each."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    # Ray Train, too, hears of the notice; whoever is first, the attempt does not count.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Ray Train's cleaner asks the dashboard.
    head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": port}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for number in (2, 3):
        cluster.add_node(num_cpus=2, node_ip_address=f"127.0.0.{number}")
    yield cluster
    cluster.shutdown()


def drain(cluster: Cluster, node: str) -> None:
    """As ``studies.machines.spot_notice`` does."""
    subprocess.run(
        [
            *(str(Path(sys.executable).with_name("ray")), "drain-node", f"--address={cluster.address}"),
            *(f"--node-id={node}", "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"),
            "--deadline-remaining-seconds=120",
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )


def busy_node(cluster: Cluster) -> str | None:
    """The node on which a trial's workers are."""
    if not ray.is_initialized():
        ray.init(cluster.address, logging_level="critical", log_to_driver=False)
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    workers = {node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")}
    return next((node for node in workers if free.get(node, {}).get("CPU", 0) < 2), None)


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_trial_is_saved_within_its_epoch_and_goes_on_on_another_node(
    workers: int, cluster: Cluster, output: Path
) -> None:
    settings = assignments(training__epochs=EPOCHS, data__train_images=120, training__batch_size=2)
    study = write_study(output, ONE)
    group = ("--workers-per-trial", str(workers), "--max-concurrent", "1")
    launch = Launch(output, study, *group, "--address", cluster.address, "--set", *settings)

    try:
        launch.wait_until(lambda: any(output.glob("trials/*/.step")))
        node = busy_node(cluster)
        assert node is not None
        drain(cluster, node)
        launch.wait_until(lambda: any(output.glob("trials/*/last.safetensors")))
        (last,) = output.glob("trials/*/last.safetensors")
        saved = read_state(last)
        status, out, err = launch.end()
    finally:
        ray.shutdown()
    assert status == 0, out + err
    assert saved.step > 0
    if "tried again" in out:  # else Ray Train has heard first, and has gone on by itself
        assert "is taken away: saved in epoch" in out
        assert "tried again (1 of 11)" in out, "Tune has counted it"
    assert workers > 1 or "tried again" in out
    (record,) = results(output).values()
    assert [entry["epoch"] for entry in record["history"]] == list(range(1, EPOCHS + 1))
    _, (child,) = runs(output, "mine")
    assert steps(output, child) == list(range(1, EPOCHS + 1))
