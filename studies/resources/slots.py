"""How many trials fit on the machines, and what each of their workers gets.

A slot is room for one worker. A trial starts only when all of its workers have slots: one worker is one actor
of Tune's, several are one placement group of Ray Train's. So no two trials can each hold half of what they
need and wait for the other.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import yaml

from studies.definition.errors import StudyError
from studies.definition.request import Machines

if TYPE_CHECKING:
    from studies.resources.nodes import Examination

__all__ = ["HEAD", "Allocation", "NodeShape", "allocate", "has_autoscaler", "head_memory", "node_shapes"]

logger = logging.getLogger(__name__)

# A resource that only Ray's head node has.
HEAD = "node:__internal_head__"
# What `ray up` leaves in the head's home folder: the limits of its autoscaler.
AUTOSCALER_CONFIG = "ray_bootstrap_config.yaml"
# On the head: the processes of a trial of several workers (its actor, the controller and queue of Train)
# and what the driver, Ray, MLflow and PostgreSQL need besides.
GROUP_GIB, HEAD_KEEPS_GIB = 1.2, 6.0


@dataclass(frozen=True)
class NodeShape:
    """The CPUs and GPUs of a node."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Allocation:
    """How many trials run at once, and what each of their workers gets.

    Attributes:
        concurrent: trials.
        cpus: of each worker; ``gpus`` likewise.
        packs: whether all workers of a trial are on one node, as there is one with room for them: gradients
            between nodes take much longer.
        examination: of nodes that join a cluster later; none on this machine.
    """

    concurrent: int
    cpus: int
    gpus: float
    packs: bool = False
    examination: Examination | None = None


def allocate(machines: Machines, nodes: Sequence[NodeShape], head_gib: float = math.inf) -> Allocation:
    """Divide the nodes into slots.

    A worker gets one CPU core; with GPUs, its ``--gpus-per-worker`` and an equal part of the node's cores.

    Args:
        machines: what the command line says of them.
        nodes: those that are there or may come.
        head_gib: memory of a cluster's head, where each trial of several workers keeps processes.

    Raises:
        StudyError: not even one trial fits.
    """
    gpus = machines.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if any(node.gpus for node in nodes) else 0.0
    if 0 < gpus < 1 and machines.workers > 1:
        raise StudyError(
            f"--gpus-per-worker {gpus:g}: the workers of one trial cannot share a GPU (NCCL refuses it); "
            "give each a whole one, or leave --workers-per-trial at 1"
        )
    cpus = _cpus_per_worker(nodes, gpus)
    if machines.is_cluster and machines.max_concurrent:
        room = _room_on_head(machines.max_concurrent, head_gib)
        if machines.workers > 1 and room < machines.max_concurrent:
            logger.warning(
                "--max-concurrent %d: each such trial keeps %.1f GiB on the head, whose %.0f are enough for "
                "%d: more may end it; lower it, or take a larger head",
                machines.max_concurrent,
                GROUP_GIB,
                head_gib,
                room,
            )
        # This may be more than fits now: a cluster can have an autoscaler that we cannot ask.
        packs = machines.workers > 1 and any(_slots(node, gpus) >= machines.workers for node in nodes)
        return Allocation(machines.max_concurrent, cpus, gpus, packs)
    whole = sum(_slots(node, gpus) // machines.workers for node in nodes)
    trials = whole or sum(_slots(node, gpus) for node in nodes) // machines.workers
    if trials < 1:
        raise StudyError(_nothing_fits(machines, gpus, nodes))
    room = _room_on_head(trials, head_gib)
    if machines.workers > 1 and room < trials:
        logger.warning(
            "%d trials at once instead of %d: each keeps %.1f GiB on the head, which has %.0f; a larger head "
            "or --max-concurrent allows more",
            room,
            trials,
            GROUP_GIB,
            head_gib,
        )
        trials = room
    return Allocation(
        min(trials, machines.max_concurrent or trials), cpus, gpus, machines.workers > 1 and whole > 0
    )


def _room_on_head(trials: int, head_gib: float) -> int:
    """How many of so many trials of several workers the head has memory for."""
    return int(min(trials, max(1.0, (head_gib - HEAD_KEEPS_GIB) / GROUP_GIB)))


def _slots(node: NodeShape, gpus: float) -> int:
    """Slots that a node offers to workers with so many GPUs each; a slot never spans nodes."""
    return int(node.gpus / gpus + 1e-9) if gpus else int(node.cpus)


def _cpus_per_worker(nodes: Sequence[NodeShape], gpus: float) -> int:
    """Cores for each worker, few enough for all GPU slots of every node; 0 if a node has too few."""
    if not gpus:
        return 1
    return min((int(node.cpus / slots) for node in nodes if (slots := _slots(node, gpus))), default=1)


def _nothing_fits(machines: Machines, gpus: float, nodes: Sequence[NodeShape]) -> str:
    needed = f"{machines.workers * gpus:g} GPUs" if gpus else f"{machines.workers} CPUs"
    total = f"{sum(node.cpus for node in nodes):g} CPUs and {sum(node.gpus for node in nodes):g} GPUs"
    message = f"--workers-per-trial {machines.workers} needs {needed}; there are {total}"
    if machines.is_cluster:
        message += " in the cluster; if it can grow, say how far with --max-concurrent and --gpus-per-worker"
    return message


def node_shapes() -> list[NodeShape]:
    """Return the nodes of the Ray in use, and those that its autoscaler may start."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    startable = _autoscaled(Path.home() / AUTOSCALER_CONFIG)
    if startable:
        # Workers that are up already are among the startable ones.
        alive = [resources for resources in alive if HEAD in resources]
    return [*map(_shape, alive), *startable]


def has_autoscaler() -> bool:
    """Whether this head starts a node for one that has ended."""
    return bool(_autoscaled(Path.home() / AUTOSCALER_CONFIG))


def head_memory() -> float:
    """GiB of the cluster's head, without Ray's object store; without end where Ray does not tell."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return next((each["memory"] / 2**30 for each in alive if HEAD in each and "memory" in each), math.inf)


def _shape(resources: Mapping[str, float]) -> NodeShape:
    return NodeShape(resources.get("CPU", 0.0), resources.get("GPU", 0.0))


def _autoscaled(path: Path) -> list[NodeShape]:
    """All worker nodes that this head's autoscaler may start; none without an autoscaler.

    Where nodes are listed by hand (provider local), only those alive count: their resources are not listed.
    """
    try:
        config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        types: dict[str, Any] = config["available_node_types"]
        head = config["head_node_type"]
    except (OSError, KeyError, yaml.YAMLError):
        return []
    shapes = [
        _shape(node_type["resources"])
        for name, node_type in types.items()
        if name != head and node_type.get("resources")
        for _ in range(node_type.get("max_workers", 0))
    ]
    # Each type has a limit, and the cluster has one for all types.
    return sorted(shapes, key=lambda shape: -shape.gpus)[: config.get("max_workers", 0)]
