"""Starts a local Ray, or joins a cluster, and leaves it at the end."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray.util import get_node_ip_address

from drcnn.signals import hangup_ignored
from studies.definition.errors import StudyError, one_line
from studies.definition.request import Machines
from studies.resources.slots import Allocation, allocate, head_memory, node_shapes
from studies.resources.temporary import use_short_temporary_folder

__all__ = ["connect"]

logger = logging.getLogger(__name__)

CHECKOUT = Path(__file__).resolve().parents[2]
# Seconds between two looks at Ray's processes.
PERIOD = 2.0

# Set before Ray is started or joined; Ray passes on to the trials' processes what they need of it.
ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Ctrl-C is handled by us: the MLflow runs must be closed.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
# For a local Ray only: a cluster has spot machines to watch.
LOCAL_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Ray gives its workers nice 15: on a busy machine they starve.
    "RAY_worker_niceness": "0",
    # A trial waits this long at every report and twice at its end; the default is 2 s.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
# Trials may wait long for GPUs that others hold, or for machines that the autoscaler has to start.
CLUSTER_ENVIRONMENT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(7 * 24 * 3600)}


@contextmanager
def connect(machines: Machines) -> Iterator[Allocation]:
    """Start a local Ray or join a cluster, divide it into slots, and leave it at the end.

    A Ray that the caller has started is used and kept.

    Raises:
        StudyError: a local Ray does not start, there is no such cluster, or not even one trial fits.
    """
    if ray.is_initialized():
        yield allocate(machines, node_shapes())
        return
    os.environ.update(ENVIRONMENT)
    # Ray's messages would break the progress table; a failed trial's traceback is in its error.json.
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    on_term = signal.getsignal(signal.SIGTERM)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if machines.is_cluster:
        _join(machines.address, quiet)
    else:
        with hangup_ignored() if in_main_thread else nullcontext():
            _start(machines, quiet)
    if in_main_thread:
        # ray.init installs a handler that ends the process at once, with MLflow runs still open.
        signal.signal(signal.SIGTERM, on_term)
    is_watched = in_main_thread and not machines.is_cluster
    try:
        with _ended_with_ray() if is_watched else nullcontext():
            yield allocate(machines, node_shapes(), head_memory() if machines.is_cluster else math.inf)
    finally:
        ray.shutdown()


@contextmanager
def _ended_with_ray() -> Iterator[None]:
    """End the launch, as Ctrl-C does, if a process of the local Ray dies: Ray would wait for it for ever."""
    kinds = (ray_constants.PROCESS_TYPE_GCS_SERVER, ray_constants.PROCESS_TYPE_RAYLET)
    started = ray._private.worker._global_node.all_processes  # type: ignore[attr-defined]
    processes = [info.process for kind in kinds for info in started.get(kind, [])]
    is_left, main_thread = threading.Event(), threading.main_thread().ident
    assert main_thread is not None

    def watch() -> None:
        while not is_left.wait(PERIOD):
            if any(process.poll() is not None for process in processes):
                logger.warning("a process of Ray on this machine has died: the launch ends, and can go on")
                signal.pthread_kill(main_thread, signal.SIGINT)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_left.set()
        # Before Ray is shut down, which ends them too.
        watcher.join()


def _start(machines: Machines, quiet: Mapping[str, Any]) -> None:
    use_short_temporary_folder()
    os.environ.update(LOCAL_ENVIRONMENT)
    # A launch by the command line has a token of its own (``own_token``).
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    # Workers import this checkout, wherever the command was started.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    port = _free_port()
    os.environ["RAY_GCS_SERVER_PORT"] = str(port)
    address = {"RAY_ADDRESS": f"{get_node_ip_address()}:{port}"}  # type: ignore[no-untyped-call]
    try:
        ray.init(
            address="local",
            # Ray Train's cleaner asks the dashboard which trials are alive; Tune alone does not need it.
            include_dashboard=machines.workers > 1,
            object_store_memory=200 << 20,
            # Without an address the cleaner would ask the wrong Ray if two run on this machine.
            runtime_env={"env_vars": address} if machines.workers > 1 else None,
            **quiet,
        )
    except Exception as error:  # what it raises when its processes are too slow has no other type
        raise StudyError(
            f"Ray could not be started on this machine: {one_line(error)} It has to start within a minute or "
            "so: run the same command again when the machine is less busy; if that does not help, the reason "
            f"is in {os.environ.get('RAY_TMPDIR', tempfile.gettempdir())}/ray/session_latest/logs"
        ) from error


def _join(address: str, quiet: Mapping[str, Any]) -> None:
    if address.startswith("ray://"):
        raise StudyError(
            f"--address {address}: a study must be started on the cluster itself; send it there with "
            "'ray job submit --working-dir . -- python studies/run_study.py NAME --address auto ...'"
        )
    for name, value in CLUSTER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Nodes run this checkout, whatever they have installed, unless 'ray job submit' has sent one.
    modules = [str(CHECKOUT / name) for name in ("drcnn", "studies")]
    has_modules = "py_modules" in os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "")
    try:
        ray.init(address=address, runtime_env=None if has_modules else {"py_modules": modules}, **quiet)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise StudyError(
            f"--address {address}: cannot join a cluster from here: {one_line(error)}; run this on the head "
            "of a cluster (ray up cluster/gpu.yaml), or leave --address out"
        ) from None


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
