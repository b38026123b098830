"""Starts a Ray of our own, or joins a cluster; and leaves it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.util import get_node_ip_address

from studies.definition.errors import StudyError
from studies.definition.machines import Machines
from studies.resources.slots import Allocation, allocate, node_shapes

__all__ = ["connect"]

CHECKOUT = Path(__file__).resolve().parents[2]

# Set before Ray is joined; what trials need of it, Ray hands on to their processes.
ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # The first Ctrl-C is ours: it closes the MLflow runs.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
# Only for a Ray of our own; a cluster has its own token, and spot machines to watch.
LOCAL_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Ray gives its workers nice 15: on a busy machine they starve.
    "RAY_worker_niceness": "0",
    # The default of 2 s is waited at every report and twice at the end of each trial.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
# A trial waits for its GPUs as long as it takes: others may hold them, or machines may have to be started.
CLUSTER_ENVIRONMENT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(7 * 24 * 3600)}


@contextmanager
def connect(machines: Machines) -> Iterator[Allocation]:
    """Start a Ray of our own or join a cluster; leave it in the end. One that the caller started is kept.

    Raises:
        StudyError: there is no such cluster, or not one trial fits.
    """
    if ray.is_initialized():
        yield allocate(machines, node_shapes())
        return
    os.environ.update(ENVIRONMENT)
    # What matters is in the table; a failed trial's traceback is in its error.json.
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    on_term = signal.getsignal(signal.SIGTERM)
    if machines.is_cluster:
        _join(machines.address, quiet)
    else:
        _start(machines, quiet)
    if threading.current_thread() is threading.main_thread():
        # Ray's own handler ends the process at once, with MLflow's runs open.
        signal.signal(signal.SIGTERM, on_term)
    try:
        yield allocate(machines, node_shapes())
    finally:
        ray.shutdown()


def _start(machines: Machines, quiet: Mapping[str, Any]) -> None:
    os.environ.update(LOCAL_ENVIRONMENT)
    # Workers import this checkout, wherever the command was started.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    port = _free_port()
    os.environ["RAY_GCS_SERVER_PORT"] = str(port)
    own = {"RAY_ADDRESS": f"{get_node_ip_address()}:{port}"}  # type: ignore[no-untyped-call]
    ray.init(
        address="local",
        # The dashboard is what Ray Train's cleaner asks which trials still live; Tune alone does without.
        include_dashboard=machines.workers > 1,
        object_store_memory=200 << 20,
        # With a second Ray on this machine the cleaner would ask the wrong one.
        runtime_env={"env_vars": own} if machines.workers > 1 else None,
        **quiet,
    )


def _join(address: str, quiet: Mapping[str, Any]) -> None:
    if address.startswith("ray://"):
        raise StudyError(
            f"--address {address}: a study is driven from the cluster itself; send it there with "
            "'ray job submit --working-dir . -- python studies/run_study.py NAME --address auto ...'"
        )
    for name, value in CLUSTER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # This code, whatever is installed on the nodes. 'ray job submit' may have brought more, which stays.
    modules = [str(CHECKOUT / name) for name in ("drcnn", "studies")]
    has_modules = "py_modules" in os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "")
    try:
        ray.init(address=address, runtime_env=None if has_modules else {"py_modules": modules}, **quiet)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        why = " ".join(str(error).split())[:300]
        raise StudyError(
            f"--address {address}: no cluster can be joined from here: {why}; run this on the head of a "
            "cluster (ray up cluster/gpu.yaml), or leave --address out"
        ) from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
