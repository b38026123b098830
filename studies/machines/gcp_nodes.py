"""Ray's nodes on Google Cloud, bought by offers; ``cluster/gcp.yaml`` names this class."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE

from studies.machines.offers import Offers

__all__ = ["GcpNodes"]

# What Google says when it has no such machine now, or not for this project or in this zone.
REFUSALS = re.compile(
    r"ZONE_RESOURCE_POOL_EXHAUSTED\w*|QUOTA_EXCEEDED|RESOURCE_NOT_READY|UNSUPPORTED_OPERATION|STOCKOUT"
    # Of the request itself (HTTP 403). Not rateLimitExceeded: too many requests.
    r"|\bquotaExceeded\b|\blimitExceeded\b"
)


class GcpNodes(GCPNodeProvider):
    """Google Cloud as Ray's autoscaler knows it.

    Raises:
        ValueError: ``provider.offers`` is missing or no table of lists.
    """

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._offers = Offers(provider_config)

    def create_node(self, base_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """Create nodes, each from the first offer that Google has; see `Offers.buy`."""

        def create(config: dict[str, Any]) -> Mapping[str, Any]:
            created: Mapping[str, Any] = super(GcpNodes, self).create_node(config, tags, 1)
            return created

        return self._offers.buy(tags.get(TAG_RAY_USER_NODE_TYPE, ""), base_config, count, create, _refusal)


def _refusal(error: Exception) -> str | None:
    # Ray raises a bare Exception around the failed operation's errors. The client's HttpError, of a request
    # that is refused at once, has the reasons in its text.
    found = REFUSALS.search(str(error))
    return found[0] if found else None
