"""Buy a node from the first offer that a cloud has: this machine on spot, else that one, else on demand.

Ray's autoscaler (2.60) does not do this. While a cloud refuses a node type, it asks for the same type again,
every few seconds and for ever: only nodes that were given and then never started count against a type, and
``priority`` orders types of which none was refused. So the choice is made below it, in the one call that asks
the cloud for a machine: a node type of ``cluster/gpu.yaml`` or ``gcp.yaml`` is what Ray plans with (CPUs,
GPUs), and its offers are the machines that will do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.autoscaler.node_launch_exception import NodeLaunchException

__all__ = ["SOLD_OUT", "Offers"]

# Category of the error that Ray's log shows (`ray monitor`) when no offer was to be had.
SOLD_OUT = "NoOfferLeft"
# After this many seconds the cloud is asked again; Ray itself asks every few seconds.
PAUSE = 60.0

logger = logging.getLogger(__name__)

NodeConfig = Mapping[str, Any]


class Offers:
    """The offers of each node type, in the order in which they are tried.

    Args:
        provider: the section ``provider`` of the cluster's file; ``offers`` has a list for each node type.
            An offer is a part of a ``node_config``, laid over that of the node type.
        clock: seconds that only grow.

    Raises:
        ValueError: ``provider.offers`` is no such table.
    """

    def __init__(self, provider: Mapping[str, Any], clock: Callable[[], float] = time.monotonic) -> None:
        found = provider.get("offers")
        if not isinstance(found, dict) or not all(map(_is_list_of_tables, found.values())):
            raise ValueError(
                f"provider.offers is {found!r}; expected a list of offers for each type of nodes, such as "
                "{gpu: [{InstanceType: g5.12xlarge}]}"
            )
        self._offers: dict[str, list[dict[str, Any]]] = found
        self._clock = clock
        self._again_at: dict[str, float] = {}

    def buy(
        self,
        node_type: str,
        node_config: NodeConfig,
        count: int,
        create: Callable[[dict[str, Any]], Mapping[str, Any]],
        why_refused: Callable[[Exception], str | None],
    ) -> dict[str, Any]:
        """Create nodes one by one, each from the first offer that is not refused.

        Args:
            node_type: the name that Ray has for the nodes.
            node_config: of this type, without an offer.
            count: how many.
            create: asks the cloud for one node of a full ``node_config``; returns it by its id.
            why_refused: the cloud's word for having none now, if an error of ``create`` says that.

        Raises:
            NodeLaunchException: every offer was refused, now or less than a minute ago. Nodes that were
                created before stay; Ray finds them.
        """
        offers = self._offers.get(node_type)
        if offers is None:
            offers = [{}]
        if self._clock() < self._again_at.get(node_type, 0.0):
            raise NodeLaunchException(SOLD_OUT, f"{node_type}: all refused just now; asked again soon", None)
        created: dict[str, Any] = {}
        for _ in range(count):
            created |= self._buy_one(node_type, node_config, offers, create, why_refused)
        return created

    def _buy_one(
        self,
        node_type: str,
        node_config: NodeConfig,
        offers: Sequence[NodeConfig],
        create: Callable[[dict[str, Any]], Mapping[str, Any]],
        why_refused: Callable[[Exception], str | None],
    ) -> Mapping[str, Any]:
        refusals = []
        for offer in offers:
            try:
                return create({**node_config, **offer})
            except Exception as error:
                reason = why_refused(error)
                if reason is None:
                    raise
                refusals.append(f"{_name({**node_config, **offer})}: {reason}")
                logger.warning("%s refused: %s", node_type, refusals[-1])
        self._again_at[node_type] = self._clock() + PAUSE
        raise NodeLaunchException(
            SOLD_OUT,
            f"{node_type}: {'; '.join(refusals)}. Add offers to the cluster's file (other machines, another "
            "zone, on demand), or wait",
            None,
        )


def _is_list_of_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def _name(config: NodeConfig) -> str:
    """A machine as its cloud names it, and whether it is on spot."""
    kind = config.get("InstanceType") or str(config.get("machineType", "")).rpartition("/")[2]
    is_spot = "InstanceMarketOptions" in config or (
        config.get("scheduling", {}).get("provisioningModel") == "SPOT"
    )
    return f"{kind} {'on spot' if is_spot else 'on demand'}"
