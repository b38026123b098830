"""What ``ray up cluster/gpu.yaml`` asks AWS for: Ray's own bootstrap and provider against a simulated AWS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

boto3 = pytest.importorskip("boto3", reason="needs boto3: pip install '.[cluster]'")
moto = pytest.importorskip("moto", reason="needs a simulated AWS: pip install '.[test]'")

from ray.autoscaler._private.aws import config as aws_config  # noqa: E402
from ray.autoscaler._private.aws import utils as aws_utils  # noqa: E402
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider  # noqa: E402
from ray.autoscaler._private.commands import _bootstrap_config  # noqa: E402
from ray.autoscaler._private.util import prepare_config  # noqa: E402

CLUSTER = Path(__file__).parents[2] / "cluster"
REGION = "us-east-1"
WORKERS = ("gpu_spot", "gpu_on_demand")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An account with what README.md makes in it, and a home without keys."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "simulated")
    (tmp_path / ".ray").mkdir()
    with moto.mock_aws():
        forget()
        iam = boto3.client("iam", region_name=REGION)
        for name in ("drcnn-head", "drcnn-worker"):
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=(CLUSTER / "aws/trust.json").read_text())
            iam.create_instance_profile(InstanceProfileName=name)
            iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
        yield
    forget()


def forget() -> None:
    """Ray keeps its clients for as long as the process lives."""
    for cached in (aws_utils.resource_cache, aws_utils.client_cache, aws_config._get_subnets_or_die):
        cached.cache_clear()


def bootstrapped() -> dict[str, Any]:
    """gpu.yaml with an image that exists, as ``ray up`` has it before it starts the head."""
    images = boto3.client("ec2", region_name=REGION).describe_images(Owners=["amazon"])["Images"]
    text = (CLUSTER / "gpu.yaml").read_text().replace("ami-00000000000000000", images[0]["ImageId"])
    config: dict[str, Any] = _bootstrap_config(prepare_config(yaml.safe_load(text)), no_config_cache=True)
    return config


class Recorder:
    """The provider as the head's autoscaler uses it, and every request it makes."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        # Ray's classes have no types.
        self.provider: Any = AWSNodeProvider(  # type: ignore[no-untyped-call]
            config["provider"], config["cluster_name"]
        )
        self.requests: list[tuple[str, dict[str, Any]]] = []
        for resource in (self.provider.ec2, self.provider.ec2_fail_fast):
            resource.meta.client.meta.events.register("provide-client-params.ec2.*", self._note)

    def _note(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        self.requests.append((model.name, params))

    def launch(self, kind: str) -> tuple[dict[str, Any], str]:
        """Start a node of a type; what was asked for, and its id."""
        node_config = self.config["available_node_types"][kind]["node_config"]
        tags = {"ray-node-type": "worker", "ray-user-node-type": kind}
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
        assert asked["MetadataOptions"]["HttpTokens"] == "required"
        (disk,) = asked["BlockDeviceMappings"]
        assert disk["Ebs"] == {
            "VolumeType": "gp3",
            "VolumeSize": 200,
            "DeleteOnTermination": True,
            "Encrypted": True,
        }
        market = asked.get("InstanceMarketOptions", {}).get("MarketType")
        assert market == ("spot" if kind == "gpu_spot" else None)


@pytest.mark.usefixtures("aws")
def test_only_ssh_is_open_to_the_world() -> None:
    config = bootstrapped()
    groups = {
        group
        for kind in config["available_node_types"].values()
        for group in kind["node_config"]["SecurityGroupIds"]
    }
    ec2 = boto3.client("ec2", region_name=REGION)
    found = ec2.describe_security_groups(GroupIds=sorted(groups))["SecurityGroups"]
    for group in found:
        open_ports = [rule for rule in group["IpPermissions"] if rule["IpRanges"] or rule["Ipv6Ranges"]]
        assert [(rule["FromPort"], rule["ToPort"]) for rule in open_ports] == [(22, 22)]
        inside = [rule for rule in group["IpPermissions"] if rule not in open_ports]
        assert {pair["GroupId"] for rule in inside for pair in rule["UserIdGroupPairs"]} == groups


@pytest.mark.usefixtures("aws")
def test_ray_knows_what_the_machines_have_and_that_the_head_takes_no_trials() -> None:
    types = bootstrapped()["available_node_types"]
    head = types["head"]["resources"]
    assert (head["CPU"], head["GPU"]) == (0, 0)
    for kind in WORKERS:
        resources = types[kind]["resources"]
        assert (resources["CPU"], resources["GPU"]) == (48, 4)
        assert types[kind]["min_workers"] == 0
    assert types["gpu_spot"]["priority"] > types["gpu_on_demand"]["priority"]


@pytest.mark.usefixtures("aws")
def test_the_head_may_do_what_its_autoscaler_does_and_idle_nodes_end() -> None:
    recorder = Recorder(bootstrapped())
    provider, ids = recorder.provider, [recorder.launch(kind)[1] for kind in WORKERS]
    assert sorted(provider.non_terminated_nodes({})) == sorted(ids)
    provider.set_node_tags(ids[0], {"ray-node-status": "up-to-date"})
    provider.terminate_nodes(ids)
    assert provider.non_terminated_nodes({}) == []
    ec2 = boto3.client("ec2", region_name=REGION)
    reservations = ec2.describe_instances(InstanceIds=ids)["Reservations"]
    states = {each["State"]["Name"] for reservation in reservations for each in reservation["Instances"]}
    assert states <= {"shutting-down", "terminated"}

    statements = json.loads((CLUSTER / "aws/head.json").read_text())["Statement"]
    listed = [statement["Action"] for statement in statements]
    allowed = {name for each in listed for name in ([each] if isinstance(each, str) else each)}
    assert {f"ec2:{name}" for name, _ in recorder.requests} <= allowed
    assert "iam:PassRole" in allowed
    assert not any("*" in name for name in allowed)
