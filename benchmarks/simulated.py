"""A cluster that is not there, and trials that do not train: all that a launch has besides is real.

Every node is a raylet on this machine, with a GPU that it does not have. A trial leaves in the object store
(a folder) what a trained one leaves there: its record, and a checkpoint of the usual size whose bytes are a
hole in the file, so that it takes no space until somebody reads it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ray import cloudpickle, tune
from ray.cluster_utils import Cluster

from drcnn.config import DataConfig
from drcnn.engine.checkpoint_header import header_texts
from drcnn.engine.record import write_finished
from drcnn.trained_model import CHECKPOINT
from studies.definition.overrides import Overrides
from studies.definition.plan import Plan, Trial
from studies.definition.request import Machines
from studies.definition.study import GridStudy
from studies.definition.trial import Inputs
from studies.resources.connection import connect
from studies.resources.slots import Allocation

if TYPE_CHECKING:
    from drcnn.data.prepare import PreparedData

__all__ = ["EPOCHS", "disk_mib", "make_plan", "simulated_cluster", "stub_of", "write_sparse_checkpoint"]

EPOCHS = 3


@dataclass(frozen=True)
class _NoData:
    """What a trial knows of its data; without torch, which this machine would load once for every node."""

    train: str = "train.arrow"
    val: str = "val.arrow"
    test: str | None = None
    judged: str = "val"
    judged_table: str = "val.arrow"
    classes: tuple[str, ...] = ("0", "1")
    fingerprint: str = "0" * 16
    skipped: tuple[str, ...] = ()

    @property
    def tables(self) -> dict[str, str]:
        return {"train": self.train, "val": self.val}


def make_plan(trials: int, output: Path) -> Plan:
    """A study that lists so many trials."""

    def prepare(data: DataConfig) -> PreparedData:
        return cast("PreparedData", _NoData())

    values = [round(1 + number / trials, 6) for number in range(trials)]
    study = GridStudy(kind="grid", title="Scale", grid={"detector.lambda_reg": values})
    return Plan("scale", Overrides.resolve(study, "laptop", "digits", {}), output, Inputs(prepare))


def stub_of(store: Path, output: Path, checkpoint_mb: int) -> Callable[[Mapping[str, Any]], None]:
    """Return what a trial does in place of training.

    Args:
        store: the folder that stands for the object store.
        output: of the study; what lies there on the head lies in the store by the same name.
        checkpoint_mb: size of a checkpoint in millions of bytes; 0 leaves none.
    """

    def stub(config: Mapping[str, Any]) -> None:
        trial: Trial = config["trial"]
        folder = store / trial.folder.relative_to(output)
        folder.mkdir(parents=True, exist_ok=True)
        history = []
        for number in range(1, EPOCHS + 1):
            value = number / EPOCHS / trial.config.detector.lambda_reg
            figures = {f"val/{name}": value for name in ("AP", "AP50", "AP80", "AP90", *map(str, range(20)))}
            history.append({"epoch": float(number), **figures, "perf/eval_seconds": 1.0})
            if checkpoint_mb:
                write_sparse_checkpoint(folder / CHECKPOINT, checkpoint_mb, history)
            tune.report(history[-1])
        write_finished(folder, history, {}, 1.0, {})

    return stub


def write_sparse_checkpoint(path: Path, megabytes: int, history: list[dict[str, float]]) -> None:
    """Write a whole checkpoint of one tensor of zeros that takes up no space on the disk."""
    size = megabytes * 10**6
    # As a stranger's program would: safetensors itself writes every byte.
    texts = header_texts({"config": "", "classes": [], "epoch": len(history), "history": history}, "")
    tensor = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    header = json.dumps({"__metadata__": texts, "model.weights": tensor}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)


def disk_mib(folder: Path) -> float:
    """MiB of the disk that the files below a folder really take."""
    return sum(path.lstat().st_blocks for path in folder.rglob("*")) * 512 / 2**20


@contextmanager
def simulated_cluster(nodes: int) -> Iterator[tuple[Machines, Allocation]]:
    """A cluster of a head that has no trials and of nodes with one GPU each; joined as a study joins one."""
    # The stub goes to the nodes as it is, and nothing that this module imports.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]
    small: dict[str, Any] = {"object_store_memory": 80 << 20}
    # Nodes of their own would start processes in advance; here all would start at once, on one machine.
    os.environ.update(RAY_enable_worker_prestart="0", RAY_prestart_worker_first_driver="0")
    # Its 64 first workers take minutes to import all: after Ray's 60 s it would start them anew, for ever.
    os.environ.update(RAY_worker_register_timeout_seconds="1800")
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        # A Ray that shares nothing with others on this machine.
        os.environ.update(RAY_TMPDIR=folder, RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
        cluster = Cluster()
        try:
            cluster.add_node(num_cpus=0, include_dashboard=False, **small)
            for _ in range(nodes):
                cluster.add_node(wait=False, num_cpus=1, num_gpus=1, **small)
            cluster.wait_for_nodes(timeout=300)
            machines = Machines(cluster.address)
            with connect(machines) as allocation:
                yield machines, allocation
        finally:
            cluster.shutdown()  # type: ignore[no-untyped-call]
