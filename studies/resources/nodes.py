"""Checks every node of a cluster before a study starts on it, and those that join while it runs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.table import Table

from drcnn.files import write_text
from drcnn.locks import file_lock
from studies.definition.errors import StudyError, one_line
from studies.resources.node_probe import SECONDS, NodeReport, NodeRequirements, probe_node

__all__ = ["UNFIT", "Examination", "check_nodes", "node_faults"]

# With less free disk space a study would fail in its first epochs.
MIN_FREE_GIB = 2.0
# In the error of a trial that came to a node that is unfit for all.
UNFIT = "this node is unfit for the study: "


@dataclass(frozen=True)
class Examination:
    """What the nodes must have that join while a study runs; cheap to send to them.

    Attributes:
        requirements: of the study.
        known: ids of the nodes that were checked before it started.
        versions: the driver's.
    """

    requirements: NodeRequirements
    known: frozenset[str]
    versions: Mapping[str, str]

    def require_fit(self) -> None:
        """Check this node when its first trial comes; the others wait for that, and hear the same.

        Raises:
            OSError: it is unfit for the study; or the store or torch does not answer, which says nothing of
                the node.
        """
        context = ray.get_runtime_context()
        node = context.get_node_id()
        if node in self.known:
            return
        # Not in OUTPUT, which is the study's record and may be shared. Each launch has files of its own, as
        # has each of several nodes of one machine.
        verdict = Path(tempfile.gettempdir()) / f"drcnn-examined-{context.get_job_id()}-{node}"
        with file_lock(Path(f"{verdict}.lock")):
            if not verdict.exists():
                report, faults = self._examine(node)
                if report.passing and not faults:
                    # No verdict on the node: its next trial looks again.
                    raise OSError(f"node {report.host} cannot be examined now: {'; '.join(report.passing)}")
                write_text(verdict, "; ".join(faults))
            unfit = verdict.read_text(encoding="utf-8")
        if unfit:
            raise OSError(f"{UNFIT}{unfit}")

    def _examine(self, node: str) -> tuple[NodeReport, list[str]]:
        """What was found on this node, and what makes it unfit."""
        nodes = {each["NodeID"]: each for each in ray.nodes()}  # type: ignore[no-untyped-call]
        here = nodes[node]
        report = probe_node(self.requirements, here["NodeManagerAddress"], here["Resources"].get("GPU", 0.0))
        driver = NodeReport("the driver's node", dict(self.versions), free=MIN_FREE_GIB)
        return report, node_faults([driver, replace(report, passing=[])])


def check_nodes(requirements: NodeRequirements, console: Console) -> frozenset[str]:
    """Check all nodes, and print a table of what they have; return their ids.

    Raises:
        StudyError: a node is unfit; the message names nodes and reasons.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    # A file that the other nodes must see if they are to share OUTPUT.
    with NamedTemporaryFile(dir=requirements.output, prefix=".shared-") as file:
        if requirements.token:
            requirements = replace(requirements, token=Path(file.name).name)
        reports = _probe(nodes, requirements)
    console.print(_table(nodes, reports))
    faults = node_faults(reports)
    if faults:
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        raise StudyError(f"the cluster cannot run this: {'; '.join(faults[:3])}{more}")
    return frozenset(node["NodeID"] for node in nodes)


def node_faults(reports: Sequence[NodeReport]) -> list[str]:
    """Return what is wrong with the nodes, one sentence each; all should have the first node's versions."""
    faults = [
        f"node {report.host}: {fault}" for report in reports for fault in (*report.faults, *report.passing)
    ]
    first = reports[0]
    for report in reports[1:]:
        for name, version in report.versions.items():
            expected = first.versions.get(name, version)
            if version != expected:
                faults.append(f"node {report.host}: {name} {version}, but {first.host} has {expected}")
    faults += [
        f"node {report.host}: {report.free:.1f} GiB free for --output, at least {MIN_FREE_GIB:g} are needed"
        for report in reports
        if report.free < MIN_FREE_GIB and not report.faults and not report.passing
    ]
    return faults


def _probe(nodes: Sequence[dict[str, Any]], requirements: NodeRequirements) -> list[NodeReport]:
    task = ray.remote(num_cpus=0, max_retries=0)(probe_node)
    answers = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            requirements, node["NodeManagerAddress"], node["Resources"].get("GPU", 0.0)
        )
        for node in nodes
    ]
    deadline = time.monotonic() + 2 * SECONDS
    return [_report(node, answer, deadline) for node, answer in zip(nodes, answers, strict=True)]


def _report(node: dict[str, Any], answer: Any, deadline: float) -> NodeReport:
    host = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    try:
        report: NodeReport = ray.get(answer, timeout=max(1.0, deadline - time.monotonic()))
        return report
    except ray.exceptions.GetTimeoutError:
        return NodeReport(host, faults=[f"did not answer within {2 * SECONDS} s"])
    except ray.exceptions.RayError as error:
        # The last line of a traceback is the error itself.
        lines = [line for line in str(error).splitlines() if line.strip()]
        why = one_line(lines[-1] if lines else type(error).__name__)
        return NodeReport(host, faults=[f"cannot be checked: {why}"])


def _table(nodes: Sequence[dict[str, Any]], reports: Sequence[NodeReport]) -> Table:
    table = Table(title=f"The cluster: {len(reports)} nodes", title_justify="left")
    for heading in ("node", "CPUs", "GPUs", "python", "ray", "torch", "free GiB", "state"):
        table.add_column(heading, overflow="fold")
    for node, report in zip(nodes, reports, strict=True):
        resources = node["Resources"]
        counts = {gpu: report.gpus.count(gpu) for gpu in report.gpus}
        gpus = ", ".join(f"{count} × {name} {memory:.0f} GiB" for (name, memory), count in counts.items())
        table.add_row(
            report.host,
            f"{resources.get('CPU', 0):g}",
            gpus or f"{resources.get('GPU', 0):g}",
            *(report.versions.get(name, "–") for name in ("python", "ray", "torch")),
            f"{report.free:.0f}",
            "; ".join((*report.faults, *report.passing)) or "ready",
        )
    return table
