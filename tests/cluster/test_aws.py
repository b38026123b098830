"""What ``ray up cluster/gpu.yaml`` asks AWS for: Ray's own bootstrap and provider against a simulated AWS."""

from __future__ import annotations

import copy
from typing import Any

import pytest

boto3 = pytest.importorskip("boto3", reason="needs boto3: pip install '.[cluster]'")
pytest.importorskip("moto", reason="needs a simulated AWS: pip install '.[test]'")

from simulated_aws import REGION, aws, bootstrapped  # noqa: E402

from studies.machines.aws_nodes import AwsNodes  # noqa: E402

__all__ = ["aws"]

WORKERS = ("gpu",)
OFFERS = ("g5.12xlarge", "g6.12xlarge")


class Recorder:
    """The provider as the head's autoscaler uses it, and every request it makes."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.provider: Any = AwsNodes(config["provider"], config["cluster_name"])
        self.requests: list[tuple[str, dict[str, Any]]] = []
        for resource in (self.provider.ec2, self.provider.ec2_fail_fast):
            resource.meta.client.meta.events.register("provide-client-params.ec2.*", self._note)

    def _note(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        self.requests.append((model.name, params))

    def launch(self, kind: str) -> tuple[dict[str, Any], str]:
        """Start a node of a type; what was asked for, and its id."""
        node_config = self.config["available_node_types"][kind]["node_config"]
        tags = {"ray-node-type": "worker", "ray-user-node-type": kind, "ray-node-name": kind}
        nodes = self.provider.create_node(node_config, tags, 1)
        asked = [params for name, params in self.requests if name == "RunInstances"]
        (node,) = nodes
        return asked[-1], node


@pytest.mark.usefixtures("aws")
def test_nodes_have_the_image_disk_rights_and_price_that_the_file_names() -> None:
    recorder = Recorder(bootstrapped())
    for kind in ("head", *WORKERS):
        asked, _ = recorder.launch(kind)
        assert asked["ImageId"].startswith("ami-")
        assert asked["InstanceType"] == ("m6i.2xlarge" if kind == "head" else "g5.12xlarge")
        role = "drcnn-head" if kind == "head" else "drcnn-worker"
        assert asked["IamInstanceProfile"] == {"Name": role}
        (disk,) = asked["BlockDeviceMappings"]
        assert disk["Ebs"] == {
            "VolumeType": "gp3",
            "VolumeSize": 200,
            "DeleteOnTermination": True,
            "Encrypted": True,
        }
        assert asked["MetadataOptions"]["HttpTokens"] == "required"
        market = asked.get("InstanceMarketOptions", {}).get("MarketType")
        assert market == (None if kind == "head" else "spot")
        # A GPU node that shuts itself down is gone, and not paid for as a stopped one.
        assert asked.get("InstanceInitiatedShutdownBehavior") == (None if kind == "head" else "terminate")
        assert ("UserData" in asked) == (kind != "head")


def open_to(config: dict[str, Any]) -> list[tuple[int, int, list[str]]]:
    """Ports that the cluster's groups open to addresses; between its own nodes all are."""
    groups = {
        group
        for kind in config["available_node_types"].values()
        for group in kind["node_config"]["SecurityGroupIds"]
    }
    found = boto3.client("ec2", region_name=REGION).describe_security_groups(GroupIds=sorted(groups))
    rules = [rule for group in found["SecurityGroups"] for rule in group["IpPermissions"]]
    inside = [rule for rule in rules if not rule["IpRanges"] and not rule["Ipv6Ranges"]]
    assert {pair["GroupId"] for rule in inside for pair in rule["UserIdGroupPairs"]} == groups
    return [
        (rule["FromPort"], rule["ToPort"], [each["CidrIp"] for each in rule["IpRanges"]])
        for rule in rules
        if rule not in inside
    ]


@pytest.mark.usefixtures("aws")
def test_only_ssh_is_open_and_to_one_address() -> None:
    assert open_to(bootstrapped(ssh_from="203.0.113.7/32")) == [(22, 22, ["203.0.113.7/32"])]
    # From another place: the next `ray up` forgets the first.
    assert open_to(bootstrapped(ssh_from="203.0.113.8/32")) == [(22, 22, ["203.0.113.8/32"])]


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("given", [None, "home", "203.0.113.7/8"])
def test_an_address_that_is_none_is_refused(given: str | None) -> None:
    with pytest.raises(ValueError, match=r"provider\.ssh_from is .*198\.51\.100\.7/32"):
        bootstrapped(ssh_from=given)


@pytest.mark.usefixtures("aws")
def test_all_nodes_are_in_one_zone() -> None:
    types = bootstrapped()["available_node_types"]
    subnets = {subnet for kind in types.values() for subnet in kind["node_config"]["SubnetIds"]}
    assert len(subnets) == 1


@pytest.mark.usefixtures("aws")
def test_ray_knows_what_the_machines_have_and_that_the_head_takes_no_trials() -> None:
    types = bootstrapped()["available_node_types"]
    head = types["head"]["resources"]
    assert (head["CPU"], head["GPU"]) == (0, 0)
    for kind in WORKERS:
        resources = types[kind]["resources"]
        assert (resources["CPU"], resources["GPU"]) == (48, 4)
        assert types[kind]["min_workers"] == 0


@pytest.mark.usefixtures("aws")
def test_all_offers_have_the_cpus_and_gpus_that_ray_plans_with() -> None:
    config = bootstrapped()
    offers = config["provider"]["offers"]["gpu"]
    assert tuple(offer["InstanceType"] for offer in offers) == OFFERS
    for offer in offers:
        other = copy.deepcopy(config)
        kind = other["available_node_types"]["gpu"]
        kind["node_config"] |= offer
        kind["resources"] = {}
        found = AwsNodes.fillout_available_node_types_resources(other)["available_node_types"]["gpu"]
        assert (found["resources"]["CPU"], found["resources"]["GPU"]) == (48, 4)


@pytest.mark.usefixtures("aws")
def test_idle_nodes_end() -> None:
    recorder = Recorder(bootstrapped())
    provider, ids = recorder.provider, [recorder.launch(kind)[1] for kind in WORKERS]
    assert set(ids) <= set(provider.non_terminated_nodes({}))
    provider.terminate_nodes(ids)
    assert not set(ids) & set(provider.non_terminated_nodes({}))
    ec2 = boto3.client("ec2", region_name=REGION)
    reservations = ec2.describe_instances(InstanceIds=ids)["Reservations"]
    states = {each["State"]["Name"] for reservation in reservations for each in reservation["Instances"]}
    assert states <= {"shutting-down", "terminated"}
