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
from ray.util import get_node_ip_address
from ray.util.placement_group import placement_group, placement_group_table

from studies.resources.nodes import UNFIT
from studies.resources.slots import Allocation
from studies.worker.watch import reason_of_kill

__all__ = ["NodeFaults", "reason_of_loss"]

# So many faults of the machine, and a node gets no more trials.
MOST_FAULTS = 2
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
    if "node has died" in text or "node was terminated" in text:
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
    """Counts faults of machines by node, and keeps all slots of a node with two of them from further trials.

    One that the examination by its first trial finds unfit gets no second. The slots are reserved until the
    launch leaves Ray. The last node that is left is never reserved.

    Args:
        allocation: what a slot is.
    """

    def __init__(self, allocation: Allocation) -> None:
        self._slot = {
            name: amount for name, amount in (("CPU", allocation.cpus), ("GPU", allocation.gpus)) if amount
        }
        self._faults: Counter[str] = Counter()
        # One that fails on a second node too may be to blame itself.
        self._first: dict[str, str] = {}

    def count(self, trial_id: str, reason: str, text: str) -> str | None:
        """Count a lost attempt against its node.

        Args:
            trial_id: of the trial.
            reason: as ``reason_of_loss`` gives it.
            text: what Ray says of it.

        Returns:
            The address of a node that is left alone from now on.
        """
        address = _address(text)
        if address is None or reason.startswith("out of memory"):
            return None  # too large a trial is too large elsewhere
        if UNFIT in text:
            self._faults[address] += MOST_FAULTS
            return address if self._faults[address] == MOST_FAULTS and self._reserve(address) else None
        if self._first.setdefault(trial_id, address) != address:
            return None
        self._faults[address] += 1
        if self._faults[address] != MOST_FAULTS:
            return None
        return address if self._reserve(address) else None

    def _reserve(self, address: str) -> bool:
        usable = {node["NodeID"]: node for node in ray.nodes() if node["Alive"] and self._slots(node)}  # type: ignore[no-untyped-call]
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


def _address(text: str) -> str | None:
    found = ADDRESS.search(text)
    return found and (found[1] or found[2])
