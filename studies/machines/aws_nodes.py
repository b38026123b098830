"""Ray's nodes on AWS, with two changes: nodes are bought by offers, and SSH is open to one address only.

``cluster/gpu.yaml`` names this class (``provider.module``); Ray loads it where ``ray up`` runs, and on the
head.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from ray.autoscaler._private.aws.config import _resource
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE

from studies.machines.offers import Offers

__all__ = ["AwsNodes"]

# What AWS says when it has no such machine now, or not for this account, in this zone or at this price.
REFUSALS = {
    "InstanceLimitExceeded",
    "InsufficientHostCapacity",
    "InsufficientInstanceCapacity",
    "MaxSpotInstanceCountExceeded",
    "SpotMaxPriceTooLow",
    "UnfulfillableCapacity",
    "Unsupported",
    "VcpuLimitExceeded",
}


class AwsNodes(AWSNodeProvider):
    """AWS as Ray's autoscaler knows it.

    Raises:
        ValueError: ``provider.offers`` is missing or no table of lists.
    """

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)  # type: ignore[no-untyped-call]
        self._offers = Offers(provider_config)

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """Create nodes, each from the first offer that AWS has; see `Offers.buy`."""

        def create(config: dict[str, Any]) -> Mapping[str, Any]:
            return super(AwsNodes, self).create_node(config, tags, 1)

        return self._offers.buy(tags.get(TAG_RAY_USER_NODE_TYPE, ""), node_config, count, create, _refusal)

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """Make keys, subnets and the security group as Ray does, then let in SSH from one address only.

        Raises:
            ValueError: ``provider.ssh_from`` is missing, or no IPv4 network such as 198.51.100.7/32.
        """
        given = cluster_config["provider"].get("ssh_from")
        try:
            network = str(ipaddress.IPv4Network(given))
        except ValueError:
            raise ValueError(
                f"provider.ssh_from is {given!r}; expected the address from which you reach the cluster, "
                "such as 198.51.100.7/32 (curl https://checkip.amazonaws.com says it)"
            ) from None
        # Ray's functions have no types.
        config: dict[str, Any] = AWSNodeProvider.bootstrap_config(  # type: ignore[no-untyped-call]
            cluster_config
        )
        groups = {
            group
            for node_type in config["available_node_types"].values()
            for group in node_type["node_config"]["SecurityGroupIds"]
        }
        ec2: Any = _resource("ec2", config)  # type: ignore[no-untyped-call]
        for group in sorted(groups):
            _let_in(ec2.SecurityGroup(group), network)
        return config


def _refusal(error: Exception) -> str | None:
    if isinstance(error, NodeLaunchException) and error.category in REFUSALS:
        return error.category
    return None


def _let_in(group: Any, network: str) -> None:
    """Leave one rule for SSH in a security group; Ray's own lets in the whole internet."""
    rules = [rule for rule in group.ip_permissions if rule.get("FromPort") == 22]
    found = {each["CidrIp"] for rule in rules for each in rule["IpRanges"]}
    if network not in found:
        group.authorize_ingress(IpPermissions=[_ssh(network)])
    if found - {network}:
        group.revoke_ingress(IpPermissions=[_ssh(each) for each in sorted(found - {network})])


def _ssh(network: str) -> dict[str, Any]:
    return {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": network}]}
