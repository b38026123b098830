"""Whether a cluster can run a study: every node is asked before anything starts."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.table import Table

from studies.definition.errors import StudyError
from studies.resources.node_probe import SECONDS, NodeReport, NodeRequirements, probe_node

__all__ = ["check_nodes", "node_faults"]

# Less free space than this ends a study in its first epochs.
LEAST_FREE_GIB = 2.0


def check_nodes(needs: NodeRequirements, console: Console) -> None:
    """Ask every node, and print what was found.

    Raises:
        StudyError: something would not work; the message names nodes and reasons.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    with _shared_token(needs) as asked:
        reports = _ask(nodes, asked)
    _print(nodes, reports, console)
    found = node_faults(reports)
    if found:
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        raise StudyError(f"the cluster cannot run this: {'; '.join(found[:3])}{more}")


def node_faults(reports: Sequence[NodeReport]) -> list[str]:
    """What is wrong, one sentence each; the first node's versions are what all should have."""
    found = [f"node {report.host}: {fault}" for report in reports for fault in report.faults]
    first = reports[0]
    for report in reports[1:]:
        for name, version in report.versions.items():
            wanted = first.versions.get(name, version)
            if version != wanted:
                found.append(f"node {report.host}: {name} {version}, but {first.host} has {wanted}")
    found += [
        f"node {report.host}: {report.free:.1f} GiB free for --output, at least {LEAST_FREE_GIB:g} are needed"
        for report in reports
        if report.free < LEAST_FREE_GIB and not report.faults
    ]
    return found


@contextmanager
def _shared_token(needs: NodeRequirements) -> Iterator[NodeRequirements]:
    """Leave a file in OUTPUT that the others must find, where they are to share it."""
    if not needs.token:
        yield needs
        return
    named = replace(needs, token=f"{needs.token}-{uuid.uuid4().hex[:12]}")
    path = needs.output / named.token
    path.touch()
    try:
        yield named
    finally:
        path.unlink(missing_ok=True)


def _ask(nodes: Sequence[dict[str, Any]], needs: NodeRequirements) -> list[NodeReport]:
    probe = ray.remote(num_cpus=0, max_retries=0)(probe_node)
    asked = [
        probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            needs, node["NodeManagerAddress"], node["Resources"].get("GPU", 0.0)
        )
        for node in nodes
    ]
    until = time.monotonic() + 2 * SECONDS
    return [_answer(node, each, until) for node, each in zip(nodes, asked, strict=True)]


def _answer(node: dict[str, Any], asked: Any, until: float) -> NodeReport:
    host = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    try:
        report: NodeReport = ray.get(asked, timeout=max(1.0, until - time.monotonic()))
        return report
    except ray.exceptions.GetTimeoutError:
        return NodeReport(host, faults=[f"did not answer within {2 * SECONDS} s"])
    except ray.exceptions.RayError as error:
        why = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
        return NodeReport(host, faults=[f"could not be asked: {' '.join(why.split())[:300]}"])


def _print(nodes: Sequence[dict[str, Any]], reports: Sequence[NodeReport], console: Console) -> None:
    table = Table(title=f"The cluster: {len(reports)} nodes", title_justify="left")
    for heading in ("node", "CPUs", "GPUs", "python", "ray", "torch", "free GiB", "state"):
        table.add_column(heading, overflow="fold")
    for node, report in zip(nodes, reports, strict=True):
        resources, versions = node["Resources"], report.versions
        table.add_row(
            report.host,
            f"{resources.get('CPU', 0):g}",
            _gpus(report) or f"{resources.get('GPU', 0):g}",
            *(versions.get(name, "–") for name in ("python", "ray", "torch")),
            f"{report.free:.0f}",
            "; ".join(report.faults) or "ready",
        )
    console.print(table)


def _gpus(report: NodeReport) -> str:
    kinds = {gpu: report.gpus.count(gpu) for gpu in report.gpus}
    return ", ".join(f"{count} × {name} {memory:.0f} GiB" for (name, memory), count in kinds.items())
