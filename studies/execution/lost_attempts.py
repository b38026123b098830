"""What a lost attempt of a trial is put down to, in words for a person, and to which node.

Ray gives a text: a traceback, or what it knows of a process that is gone. Where the trial's own companion
knows more (``watch``), that is said instead.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]
from ray.exceptions import RayError
from ray.util import get_node_ip_address
from ray.util.placement_group import placement_group, placement_group_table

from studies.resources.nodes import UNFIT
from studies.resources.slots import HEAD, Allocation, has_autoscaler
from studies.worker.watch import reason_of_kill

__all__ = ["NodeFaults", "reason_of_loss"]

# So many faults of the machine, and a node gets no more trials.
MOST_FAULTS = 2
# So many nodes of a launch are given back for others at most: what all nodes lack, new ones lack too.
MOST_DRAINED = 4
DRAIN_SECONDS = 120  # for the trials there to be saved, as AWS gives them
# The first is Ray's of a process that is gone, the second ours of an error that was caught (``faults``).
ADDRESS = re.compile(r"^\s*ip: ([\w.:]+)$|\(on node \S+, ([\w.:]+)\)", re.MULTILINE)
PROCESS = re.compile(r"^\s*pid: (\d+)$", re.MULTILINE)
EXIT = re.compile(r"Worker exit detail: (.*?)(?:\.\s|\.?$)", re.MULTILINE)
TAKEN = re.compile(r"node \S+ is taken away: .+")
LOW_MEMORY = re.compile(r"(Memory on the node .*? was [\d.]+\w+ ?/ ?[\d.]+\w+)", re.DOTALL)
RESERVED = "left-alone-"
TOLD_WITHIN = 3.0  # seconds


def reason_of_loss(folder: Path, attempt: int, text: str) -> str:
    """Why an attempt was lost, in one line.

    Args:
        folder: of the trial, as far as it is here.
        attempt: of this launch, from 0.
        text: what Ray says of it.
    """
    known = reason_of_kill(folder, attempt)
    if known is None and (taken := TAKEN.search(text)) is not None:
        known = taken[0]
    if known is not None:
        return known
    if "low on memory" in text or "memory monitor" in text:
        found = LOW_MEMORY.search(text)
        much = f" ({' '.join(found[1].split())})" if found else ""
        return (
            f"out of memory: Ray ended the process to save its node{much}; lower training.batch_size, or run "
            "fewer trials at once (--max-concurrent)"
        )
    address = _address(text)
    if _is_gone(text):
        return f"the node {address or 'it ran on'} is gone"
    if "actor died" in text.lower() or "worker process has died" in text:
        if (told := _told_late(folder, attempt, text)) is not None:
            return told
        process, detail = PROCESS.search(text), EXIT.search(text)
        which = f" {process[1]}" if process else ""
        where = f" on {address}" if address else ""
        return f"its process{which}{where} was killed or crashed{f' ({detail[1]})' if detail else ''}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[-1] if lines else "ended without a message")[:2000]


def _told_late(folder: Path, attempt: int, text: str) -> str | None:
    """What a companion on this machine tells of a kill by the kernel, which is counted a second later."""
    ends = time.monotonic() + TOLD_WITHIN
    while _address(text) == get_node_ip_address() and time.monotonic() < ends:  # type: ignore[no-untyped-call]
        if (reason := reason_of_kill(folder, attempt)) is not None:
            return reason
        time.sleep(0.2)
    return None


class NodeFaults:
    """Counts faults of machines by node, and leaves a node with two of them alone.

    One that the examination by its first trial finds unfit gets no second. Where an autoscaler can start
    another the node is drained: its other trials are saved and go on elsewhere, then Ray there ends, and the
    autoscaler ends the machine. Of Ray's reasons only PREEMPTION does that: IDLE_TERMINATION is refused while
    anything runs, and its losses would count as failures. Elsewhere the node's slots are reserved until the
    launch leaves Ray; the last node that is left never is.

    Args:
        allocation: what a slot is.
    """

    def __init__(self, allocation: Allocation) -> None:
        self._slot = {
            name: amount for name, amount in (("CPU", allocation.cpus), ("GPU", allocation.gpus)) if amount
        }
        self._faults: Counter[str] = Counter()
        self._drained: set[str] = set()  # ids of nodes
        # One that fails on a second node too may be to blame itself.
        self._first: dict[str, str] = {}

    def count(self, trial_id: str, reason: str, text: str) -> str | None:
        """Count a lost attempt against its node.

        Args:
            trial_id: of the trial.
            reason: as ``reason_of_loss`` gives it.
            text: what Ray says of it.

        Returns:
            What is done with a node that is left alone from now on, for a person.
        """
        address = _address(text)
        if address is None or reason.startswith("out of memory"):
            return None  # too large a trial is too large elsewhere
        if _is_gone(text) or TAKEN.search(text):
            return None  # nothing is left to count against, and the trial is not to blame
        if UNFIT in text:
            self._faults[address] += MOST_FAULTS
        elif self._first.setdefault(trial_id, address) == address:
            self._faults[address] += 1
        else:
            return None
        return self._leave_alone(address) if self._faults[address] >= MOST_FAULTS else None

    def _leave_alone(self, address: str) -> str | None:
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        alive = [node for node in nodes if node["Alive"] and node["NodeManagerAddress"] == address]
        left = {node["NodeID"] for node in alive if HEAD not in node["Resources"]} - self._drained
        if left and len(self._drained) < MOST_DRAINED and has_autoscaler() and all(map(_drain, left)):
            self._drained |= left
            del self._faults[address]  # another machine may get it
            return (
                f"node {address} is given back: its trials go on elsewhere, the autoscaler starts another "
                "node; if that is no better, mend what nodes are made of (the image, the cluster's file)"
            )
        if not self._reserve(address):
            return None
        return (
            f"node {address} gets no more trials in this launch, but runs and is paid for: mend it, or end "
            "it ('ray stop' there; on a cloud, its machine)"
        )

    def _reserve(self, address: str) -> bool:
        usable = {node["NodeID"]: node for node in ray.nodes() if node["Alive"] and self._slots(node)}  # type: ignore[no-untyped-call]
        usable = {key: node for key, node in usable.items() if key not in self._drained}
        job = ray.get_runtime_context().get_job_id()
        table: dict[str, dict[str, Any]] = placement_group_table()
        names = [group["name"] for group in table.values() if group["state"] != "REMOVED"]
        reserved = {name.split("-")[2] for name in names if name.startswith(RESERVED)}
        left = usable.keys() - reserved
        faulty = {node for node in left if usable[node]["NodeManagerAddress"] == address}
        if not faulty or faulty == left:
            return False
        for node in faulty:
            for number in range(self._slots(usable[node])):
                # Waits for a slot that is taken now, before any trial that is yet to be started.
                placement_group(
                    [self._slot],
                    bundle_label_selector=[{"ray.io/node-id": node}],
                    # Names are unique, also among the launches that share a cluster.
                    name=f"{RESERVED}{node}-{job}-{number}",
                )
        return True

    def _slots(self, node: dict[str, Any]) -> int:
        resources = node["Resources"]
        return int(min(resources.get(name, 0.0) / amount + 1e-9 for name, amount in self._slot.items()))


def _drain(node: str) -> bool:
    """Whether Ray has taken the order to empty a node, and then to end there."""
    deadline = int((time.time() + DRAIN_SECONDS) * 1000)
    reason = DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
    try:
        client = GcsClient(address=ray.get_runtime_context().gcs_address)
        accepted: bool = client.drain_node(node, reason, "has faults that trials do not survive", deadline)[0]
    except (RayError, RuntimeError, OSError):
        return False
    return accepted


def _is_gone(text: str) -> bool:
    return "node has died" in text or "node was terminated" in text


def _address(text: str) -> str | None:
    found = ADDRESS.search(text)
    return found and (found[1] or found[2])
