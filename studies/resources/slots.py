"""How many trials fit on the machines, and what each of their workers gets.

A trial is placed whole or not at all: one worker is one actor of Tune's, several are one placement group of
Ray Train's, so no two trials can hold half of what each needs. A trial that finds no place waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml

from studies.definition.errors import StudyError
from studies.definition.machines import Machines

__all__ = ["HEAD", "Allocation", "NodeShape", "allocate", "node_shapes"]

# A resource that Ray gives to the head node alone.
HEAD = "node:__internal_head__"
# What `ray up` leaves on the head: how far its autoscaler may go.
AUTOSCALER_CONFIG = "ray_bootstrap_config.yaml"


@dataclass(frozen=True)
class NodeShape:
    """Like nodes: what each offers, and how many there are, or may be once the autoscaler started them."""

    cpus: float
    gpus: float
    count: int = 1


@dataclass(frozen=True)
class Allocation:
    """What one worker gets, and how many trials run at once."""

    concurrent: int
    cpus: int
    gpus: float


def allocate(machines: Machines, nodes: Sequence[NodeShape]) -> Allocation:
    """Divide the machines: on CPUs one core a worker, else the GPU's part and its node's cores.

    Raises:
        StudyError: not even one trial fits.
    """
    each = machines.gpus_per_worker
    if each is None:
        each = 1.0 if any(node.gpus for node in nodes) else 0.0
    if 0 < each < 1 and machines.workers > 1:
        raise StudyError(
            f"--gpus-per-worker {each:g}: the workers of one trial cannot share a GPU (NCCL refuses it); "
            "give each a whole one, or leave --workers-per-trial at 1"
        )
    slots = sum(_slots(node, each) * node.count for node in nodes)
    fit = slots // machines.workers
    if machines.is_cluster and machines.max_concurrent:
        # More than fit now is a wish: an autoscaler of which nothing is known here may grant it.
        return Allocation(machines.max_concurrent, _cpus(nodes, each), each)
    if fit < 1:
        raise StudyError(_too_small(machines, each, nodes))
    return Allocation(min(fit, machines.max_concurrent or fit), _cpus(nodes, each), each)


def _slots(node: NodeShape, gpus: float) -> int:
    """How many workers a node holds; a worker is never divided between nodes."""
    return int(node.gpus / gpus + 1e-9) if gpus else int(node.cpus)


def _cpus(nodes: Sequence[NodeShape], gpus: float) -> int:
    """Cores of each worker, so that every GPU of every node finds its own; none where there are too few."""
    if not gpus:
        return 1
    return min((int(node.cpus / slots) for node in nodes if (slots := _slots(node, gpus))), default=1)


def _too_small(machines: Machines, gpus: float, nodes: Sequence[NodeShape]) -> str:
    needs = f"{machines.workers * gpus:g} GPUs" if gpus else f"{machines.workers} CPUs"
    cpus = sum(node.cpus * node.count for node in nodes)
    there = f"{cpus:g} CPUs and {sum(node.gpus * node.count for node in nodes):g} GPUs"
    found = f"--workers-per-trial {machines.workers} needs {needs}; there are {there}"
    if machines.is_cluster:
        found += " in the cluster; if it can grow, say how far with --max-concurrent and --gpus-per-worker"
    return found


def node_shapes() -> list[NodeShape]:
    """The nodes of the Ray in use, and those that its autoscaler may start."""
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    grown = _autoscaled(Path.home() / AUTOSCALER_CONFIG)
    if grown:
        alive = [node for node in alive if HEAD in node["Resources"]]
    return [*(_shape(node["Resources"]) for node in alive), *grown]


def _shape(resources: Mapping[str, float], count: int = 1) -> NodeShape:
    return NodeShape(resources.get("CPU", 0.0), resources.get("GPU", 0.0), count)


def _autoscaled(path: Path) -> list[NodeShape]:
    """The worker nodes that the autoscaler of this head may start; none where there is no autoscaler.

    Nodes listed by hand (provider local) say nothing of their resources: only those alive are known.
    """
    try:
        config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        types: dict[str, Any] = config["available_node_types"]
        head = config["head_node_type"]
    except (OSError, KeyError, yaml.YAMLError):
        return []
    shapes = [
        _shape(kind["resources"], kind.get("max_workers", 0))
        for name, kind in types.items()
        if name != head and kind.get("resources")
    ]
    return _capped(sorted(shapes, key=lambda shape: -shape.gpus), config.get("max_workers", 0))


def _capped(shapes: Iterable[NodeShape], most: int) -> list[NodeShape]:
    """No more nodes in all than the autoscaler's own limit."""
    kept = []
    for shape in shapes:
        count = min(shape.count, most)
        most -= count
        if count:
            kept.append(NodeShape(shape.cpus, shape.gpus, count))
    return kept
