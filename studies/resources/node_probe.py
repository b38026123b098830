"""What one node of a cluster has and can do, found out on that node.

The probe imports neither torch nor drcnn's models. Torch is asked in a process of its own, which sees all of
the node's GPUs; a Ray task without GPUs does not.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile

from drcnn.data.annotations import DataError
from drcnn.data.prepare import PreparedData
from studies.definition.errors import one_line
from studies.record.provenance import installed_versions
from studies.transfer.datasets import RemoteFolder, check_datasets
from studies.transfer.retry import is_transient
from studies.transfer.trial_folders import unreadable_image
from studies.transfer.trial_store import TrialStore

__all__ = ["NodeReport", "NodeRequirements", "probe_node"]

# Enough for a node that has just started, with a cold disk.
SECONDS = 180
ASK_TORCH = """
import json, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch, torchvision
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps({
    "gpus": [[gpu.name, gpu.total_memory / 2**30] for gpu in gpus],
    "warnings": " ".join(str(warning.message) for warning in caught),
}))
"""


@dataclass(frozen=True)
class NodeRequirements:
    """What a study needs of every node.

    Attributes:
        output: absolute path of OUTPUT.
        token: name of a file that the driver has put into OUTPUT, for nodes that must share it; else empty.
        store: where trial folders are stored.
        datasets: to download from an object store.
        data: the prepared splits.
        weights: paths of weights files, if any.
    """

    output: Path
    token: str
    store: TrialStore
    datasets: tuple[RemoteFolder, ...]
    data: PreparedData
    weights: tuple[Path, ...]


@dataclass
class NodeReport:
    """What was found on a node.

    Attributes:
        host: name and address.
        versions: of python, ray, torch and torchvision.
        gpus: name and memory in GiB of each GPU that torch sees.
        free: disk space for OUTPUT in GiB.
        faults: one sentence each.
        passing: the same, of what may be better in a while: the store or torch did not answer.
    """

    host: str
    versions: dict[str, str] = field(default_factory=dict)
    gpus: list[tuple[str, float]] = field(default_factory=list)
    free: float = 0.0
    faults: list[str] = field(default_factory=list)
    passing: list[str] = field(default_factory=list)


def probe_node(requirements: NodeRequirements, address: str, gpus: float) -> NodeReport:
    """Check the node that this runs on.

    Args:
        requirements: of the study.
        address: of the node.
        gpus: the number of GPUs that Ray counts on it.
    """
    report = NodeReport(f"{socket.gethostname()} ({address})", installed_versions())
    _check_gpus(report, gpus)
    for check in (_check_output, _check_store, _check_data, _check_weights):
        try:
            check(requirements, report)
        except (OSError, DataError) as error:
            may_pass = isinstance(error, OSError) and is_transient(error)
            (report.passing if may_pass else report.faults).append(one_line(error))
    return report


def _check_gpus(report: NodeReport, gpus: float) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    try:
        process = subprocess.run(  # noqa: PLW1510 - its failure is reported as a fault
            [sys.executable, "-c", ASK_TORCH],
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        answer = json.loads(process.stdout)
    except subprocess.TimeoutExpired:
        report.passing.append(f"torch did not answer within {SECONDS} s")
        return
    except ValueError:
        last_line = (process.stderr.strip().splitlines() or ["no message"])[-1]
        report.faults.append(f"torch cannot be used: {last_line[:200]}; install the project on every node")
        return
    report.gpus = [(name, memory) for name, memory in answer["gpus"]]
    if len(report.gpus) < gpus:
        why = answer["warnings"][:200] or "is the driver installed, and new enough for this torch's CUDA?"
        report.faults.append(f"Ray counts {gpus:g} GPUs, torch sees {len(report.gpus)}: {why}")


def _check_output(requirements: NodeRequirements, report: NodeReport) -> None:
    output = requirements.output
    output.mkdir(parents=True, exist_ok=True)
    report.free = shutil.disk_usage(output).free / 2**30
    if requirements.token and not (output / requirements.token).exists():
        report.faults.append(
            f"does not share {output} with the driver's node; give --output a folder that all nodes "
            "share, or --storage an object store (s3://BUCKET/PREFIX)"
        )
        return
    with NamedTemporaryFile(dir=output, prefix=".node-") as file:
        try:
            # Locks keep two workers from training in one folder; NFS before version 4 and some other file
            # systems have none. Not tested with FileLock, which may fall back
            # to a lock that is only a file's existence.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            report.faults.append(
                f"cannot lock files in {output} ({error.strerror}); give --output a folder on a file system "
                "with locks, such as NFS 4"
            )


def _check_store(requirements: NodeRequirements, report: NodeReport) -> None:
    requirements.store.check_access()


def _check_data(requirements: NodeRequirements, report: NodeReport) -> None:
    # Only checked: to download everything may take long, and the first trial on the node does.
    check_datasets(requirements.datasets)
    for path in requirements.data.tables.values():
        requirements.store.download_table(Path(path))
    if all(dataset.folder.exists() for dataset in requirements.datasets):
        fault = unreadable_image(requirements.data)
        if fault is not None:
            report.faults.append(fault)


def _check_weights(requirements: NodeRequirements, report: NodeReport) -> None:
    report.faults += [
        f"cannot read {path} (detector.weights); put it there on every node"
        for path in requirements.weights
        if not os.access(path, os.R_OK)
    ]
