"""What one node of a cluster is and can do, found out on that node.

The probe imports neither torch nor drcnn's models in its own process: torch is asked in a process of its own,
which sees all of the node's GPUs, as a task without GPUs does not.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from drcnn.data.annotations import DataError
from drcnn.data.prepare import PreparedData
from drcnn.files import write_text
from studies.transfer.datasets import RemoteFolder, check_datasets
from studies.transfer.store import TrialStore
from studies.transfer.supplies import unreadable

__all__ = ["NodeReport", "NodeRequirements", "probe_node"]

# Of a node that is just starting, with its disk cold.
SECONDS = 180
ASK_TORCH = """
import json, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch, torchvision
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    gpus = [[each.name, each.total_memory / 2**30] for each in found]
print(json.dumps({
    "torch": torch.__version__, "torchvision": torchvision.__version__,
    "gpus": gpus, "why": " ".join(str(each.message) for each in caught),
}))
"""


@dataclass(frozen=True)
class NodeRequirements:
    """What a study needs of every node.

    Attributes:
        output: absolute; with ``token`` in it written by the driver.
        token: name of a file; a node that does not find it does not share the folder.
        storage: where trials' folders are kept.
        remotes: data to fetch.
        data: the prepared splits.
        weights: paths of the weights files, if any.
    """

    output: Path
    token: str
    storage: TrialStore
    remotes: tuple[RemoteFolder, ...]
    data: PreparedData
    weights: tuple[Path, ...]


@dataclass
class NodeReport:
    """What was found on a node.

    Attributes:
        host: name and address.
        versions: of python, ray, torch and torchvision.
        gpus: name and memory in GiB of each that torch sees.
        free: disk space for OUTPUT, GiB.
        faults: one sentence each.
    """

    host: str
    versions: dict[str, str] = field(default_factory=dict)
    gpus: list[tuple[str, float]] = field(default_factory=list)
    free: float = 0.0
    faults: list[str] = field(default_factory=list)


def probe_node(needs: NodeRequirements, address: str, gpus: float) -> NodeReport:
    """Examine the node that this runs on.

    Args:
        needs: of the study.
        address: the node's.
        gpus: how many Ray counts here.
    """
    import ray

    report = NodeReport(f"{socket.gethostname()} ({address})")
    report.versions = {"python": platform.python_version(), "ray": ray.__version__}
    _ask_torch(report, gpus)
    for check in (_output, _storage, _data, _weights):
        _noting(report, partial(check, needs, report))
    return report


def _ask_torch(report: NodeReport, gpus: float) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    try:
        process = subprocess.run(  # noqa: PLW1510 - a failure is a finding
            [sys.executable, "-c", ASK_TORCH],
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        found = json.loads(process.stdout)
    except subprocess.TimeoutExpired:
        report.faults.append(f"torch does not answer within {SECONDS} s")
        return
    except ValueError:
        last = (process.stderr.strip().splitlines() or ["no message"])[-1]
        report.faults.append(f"torch cannot be used: {last[:200]}; install the project on every node")
        return
    report.versions |= {key: found[key] for key in ("torch", "torchvision")}
    report.gpus = [(name, memory) for name, memory in found["gpus"]]
    if len(report.gpus) < gpus:
        why = found["why"][:200] or "is the driver installed, and new enough for this torch's CUDA?"
        report.faults.append(f"Ray counts {gpus:g} GPUs, torch sees {len(report.gpus)}: {why}")


def _output(needs: NodeRequirements, report: NodeReport) -> None:
    needs.output.mkdir(parents=True, exist_ok=True)
    report.free = shutil.disk_usage(needs.output).free / 2**30
    if needs.token and not (needs.output / needs.token).exists():
        report.faults.append(
            f"does not share {needs.output} with the driver's node; give --output a folder that all nodes "
            "share, or --storage an object store (s3://BUCKET/PREFIX)"
        )
        return
    mark = needs.output / f".node-{uuid.uuid4().hex}"
    write_text(mark, "")
    with mark.open() as file:
        # Two workers must not train in one folder: NFS before version 4 and some others have no locks.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    mark.unlink()


def _storage(needs: NodeRequirements, report: NodeReport) -> None:
    needs.storage.check_access()


def _data(needs: NodeRequirements, report: NodeReport) -> None:
    # Fetched where it is first worked on: all of it may take longer than a check.
    check_datasets(needs.remotes)
    for path in (needs.data.train, needs.data.val):
        needs.storage.download_file(Path(path))
    if all(remote.folder.exists() for remote in needs.remotes):
        fault = unreadable(needs.data)
        if fault is not None:
            report.faults.append(fault)


def _weights(needs: NodeRequirements, report: NodeReport) -> None:
    report.faults += [
        f"cannot read {path} (detector.weights); put it there on every node"
        for path in needs.weights
        if not os.access(path, os.R_OK)
    ]


def _noting(report: NodeReport, check: Callable[[], None]) -> None:
    try:
        check()
    except (OSError, DataError) as error:
        report.faults.append(" ".join(str(error).split())[:300])
