"""Ray's own autoscaler with gpu.yaml, against a simulated AWS that refuses some machines."""

from __future__ import annotations

import copy
import json
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("boto3", reason="needs boto3: pip install '.[cluster]'")
pytest.importorskip("moto", reason="needs a simulated AWS: pip install '.[test]'")

from botocore.exceptions import ClientError
from ray.autoscaler._private.aws import node_provider as aws_node_provider
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.instance_manager import InstanceManager
from ray.autoscaler.v2.instance_manager.instance_storage import InstanceStorage
from ray.autoscaler.v2.instance_manager.node_provider import NodeProviderAdapter
from ray.autoscaler.v2.instance_manager.reconciler import Reconciler
from ray.autoscaler.v2.instance_manager.storage import InMemoryStorage
from ray.autoscaler.v2.instance_manager.subscribers.cloud_instance_updater import CloudInstanceUpdater
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler
from ray.autoscaler.v2.schema import ClusterStatus, Stats
from ray.autoscaler.v2.utils import ClusterStatusParser
from ray.core.generated import autoscaler_pb2
from simulated_aws import aws, bootstrapped

from studies.definition.request import Machines
from studies.machines import offers
from studies.machines.aws_nodes import AwsNodes
from studies.resources.refused_nodes import refusal
from studies.resources.slots import AUTOSCALER_CONFIG, Allocation, NodeShape, _autoscaled, allocate

__all__ = ["aws"]

ON_DEMAND = {"InstanceType": "g5.12xlarge"}


class Head:
    """The autoscaler of a head: one reconciler over real providers, and trials that wait for GPUs."""

    def __init__(self, config: dict[str, Any], is_refused: Callable[[str], bool]) -> None:
        self.config, self.asked = config, list[str]()
        self._is_refused = is_refused
        self.provider: Any = AwsNodes(config["provider"], config["cluster_name"])
        events = self.provider.ec2_fail_fast.meta.client.meta.events
        # Ray has one client for all heads of a process.
        events.unregister("before-parameter-build.ec2.RunInstances", unique_id="head")
        events.register("before-parameter-build.ec2.RunInstances", self._ask, unique_id="head")
        head = config["available_node_types"]["head"]["node_config"]
        tags = {"ray-node-type": "head", "ray-user-node-type": "head", "ray-node-name": "head"}
        (self._head,) = self.provider.create_node(head, tags, 1)
        self.asked.clear()
        self._settings = AutoscalingConfig(config, skip_content_hash=True)
        self._cloud: Any = NodeProviderAdapter(self.provider, self)  # type: ignore[arg-type]
        self._instances = InstanceManager(
            InstanceStorage("cluster", InMemoryStorage()), [CloudInstanceUpdater(self._cloud)]
        )
        self._scheduler = ResourceDemandScheduler(None)
        self._monitor = CloudResourceMonitor()

    def get_cached_autoscaling_config(self) -> AutoscalingConfig:
        return self._settings

    def _ask(self, params: dict[str, Any], **_: Any) -> None:
        market = "on_demand" if "InstanceMarketOptions" not in params else "spot"
        kind = f"{params['InstanceType']} {market}"
        self.asked.append(kind)
        if self._is_refused(kind):
            raise ClientError(
                {"Error": {"Code": "InsufficientInstanceCapacity", "Message": kind}}, "RunInstances"
            )

    def reconcile(
        self, gpus: int, times: int, workers: Mapping[str, autoscaler_pb2.NodeStatus] | None = None
    ) -> ClusterStatus:
        """Let the autoscaler look so many times at trials that wait for a GPU; what it then tells.

        Args:
            gpus: that are waited for.
            times: that it looks.
            workers: what Ray says of its nodes, by the machine's id.
        """
        state = autoscaler_pb2.ClusterResourceState(
            node_states=[
                autoscaler_pb2.NodeState(
                    node_id=b"head",
                    instance_id=self._head,
                    ray_node_type_name="head",
                    status=autoscaler_pb2.NodeStatus.RUNNING,
                    total_resources={"node:__internal_head__": 1.0},
                ),
                *(
                    autoscaler_pb2.NodeState(
                        node_id=machine.encode(),
                        instance_id=machine,
                        ray_node_type_name="gpu",
                        status=status,
                        total_resources={"CPU": 48.0, "GPU": 4.0},
                    )
                    for machine, status in (workers or {}).items()
                ),
            ],
            pending_resource_requests=[
                autoscaler_pb2.ResourceRequestByCount(
                    request=autoscaler_pb2.ResourceRequest(resources_bundle={"CPU": 12, "GPU": 1}), count=gpus
                )
            ],
        )
        for _ in range(times):
            told = Reconciler.reconcile(
                instance_manager=self._instances,
                scheduler=self._scheduler,
                cloud_provider=self._cloud,
                cloud_resource_monitor=self._monitor,
                ray_cluster_resource_state=state,
                non_terminated_cloud_instances=self._cloud.get_non_terminated(),
                cloud_provider_errors=self._cloud.poll_errors(),
                autoscaling_config=self._settings,
                _logger=logging.getLogger("test"),
            )
            time.sleep(0.2)  # nodes are launched by other threads
        reply = autoscaler_pb2.GetClusterStatusReply(autoscaling_state=told)
        return ClusterStatusParser.from_get_cluster_status_reply(reply, Stats())

    def ids(self) -> list[str]:
        """Of the machines that run, but the head's."""
        return [*self.provider.non_terminated_nodes({"ray-node-type": "worker"})]

    def nodes(self) -> Counter[str]:
        """What runs, by machine and market."""
        found = Counter[str]()
        for id in self.ids():
            node = self.provider.ec2.Instance(id)
            market = "spot" if node.instance_lifecycle == "spot" else "on_demand"
            found[f"{node.instance_type} {market}"] += 1
        return found


@pytest.fixture(scope="module")
def gpu_yaml(aws: None) -> dict[str, Any]:
    return bootstrapped()


@pytest.fixture
def config(gpu_yaml: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Of a cluster with a name of its own in the account."""
    # Asked once for each offer, not five times.
    monkeypatch.setattr(aws_node_provider, "BOTO_CREATE_MAX_RETRIES", 1)
    monkeypatch.setattr(offers, "PAUSE", 0.0)
    return copy.deepcopy(gpu_yaml) | {"cluster_name": secrets.token_hex(8)}


def test_gpus_come_from_spot_while_there_is_spot(config: dict[str, Any]) -> None:
    config["provider"]["offers"]["gpu"].append(ON_DEMAND)
    head = Head(config, lambda kind: False)
    status = head.reconcile(gpus=40, times=12)
    assert refusal(status, 0.0) == ""
    # Forty trials want ten nodes; the file allows four.
    assert head.nodes() == {"g5.12xlarge spot": 4}


def test_another_machine_is_taken_where_the_first_is_refused(config: dict[str, Any]) -> None:
    head = Head(config, lambda kind: kind == "g5.12xlarge spot")
    head.reconcile(gpus=8, times=10)
    assert head.nodes() == {"g6.12xlarge spot": 2}


def test_without_spot_the_file_as_it_is_buys_nothing(config: dict[str, Any]) -> None:
    head = Head(config, lambda kind: kind.endswith("spot"))
    began = time.time() - 1
    status = head.reconcile(gpus=4, times=6)
    assert head.nodes() == {}
    assert set(head.asked) == {"g5.12xlarge spot", "g6.12xlarge spot"}
    # The driver of a study that waits says so, and what to do.
    line = refusal(status, began)
    assert line.startswith("no node of type gpu was to be had, ")
    assert "more offers, another zone, or machines on demand (cluster/trouble.md)" in line
    assert refusal(status, time.time() + 10) == "", "of an earlier study"


def test_with_the_offer_at_the_end_nodes_on_demand_come_where_there_is_no_spot(
    config: dict[str, Any],
) -> None:
    config["provider"]["offers"]["gpu"].append(ON_DEMAND)
    head = Head(config, lambda kind: kind.endswith("spot"))
    head.reconcile(gpus=8, times=10)
    assert head.nodes() == {"g5.12xlarge on_demand": 2}


def test_a_node_that_is_drained_ends_and_another_is_started(config: dict[str, Any]) -> None:
    """What a launch does with a node that is at fault (studies/execution/lost_attempts.py)."""
    status = autoscaler_pb2.NodeStatus
    head = Head(config, lambda kind: False)
    head.reconcile(gpus=4, times=8)
    (faulty,) = head.ids()
    head.reconcile(gpus=0, times=3, workers={faulty: status.RUNNING})
    assert head.ids() == [faulty]
    head.reconcile(gpus=4, times=8, workers={faulty: status.DRAINING})
    assert faulty in head.ids(), "while its trials are saved"
    head.reconcile(gpus=4, times=8, workers={faulty: status.DEAD})
    (other,) = head.ids()
    assert other != faulty


def test_the_nodes_that_gpu_yaml_allows_make_slots(gpu_yaml: dict[str, Any], tmp_path: Path) -> None:
    """As `ray up` leaves it on the head."""
    path = tmp_path / AUTOSCALER_CONFIG
    path.write_text(yaml.safe_dump(json.loads(json.dumps(gpu_yaml))))
    nodes = _autoscaled(path)
    assert nodes == [NodeShape(48.0, 4.0)] * 4
    assert allocate(Machines("auto"), nodes) == Allocation(16, 12, 1.0)
    assert allocate(Machines("auto", 4), nodes) == Allocation(4, 12, 1.0, packs=True)


def test_ray_alone_never_asks_for_the_second_type(config: dict[str, Any]) -> None:
    """Why offers exist: when this fails, Ray has learned it, and studies/machines/offers.py can go."""
    types = config["available_node_types"]
    spot = config["provider"]["offers"].pop("gpu")[0]["InstanceMarketOptions"]
    types["on_demand"] = types["gpu"] | {"priority": 0}
    types["gpu"] = types["gpu"] | {"priority": 1}
    types["gpu"]["node_config"] = types["gpu"]["node_config"] | {"InstanceMarketOptions": spot}
    head = Head(config, lambda kind: kind.endswith("spot"))
    head.reconcile(gpus=4, times=10)
    assert head.nodes() == {}
    assert set(head.asked) == {"g5.12xlarge spot"}
