"""cluster/sky.yaml: what its nodes run, run here, with SkyPilot's variables imitated."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import yaml
from cluster_files import CLUSTER

# In place of the study: what it is told, and how many nodes it finds.
STUDY = """#!{python}
import sys, ray
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
print("nodes", sum(node["Alive"] for node in ray.nodes()), *sys.argv[1:])
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: Ray's sockets are in it."""
    found = Path(tempfile.mkdtemp(prefix="sky-"))
    yield found
    shutil.rmtree(found, ignore_errors=True)


def run(folder: Path, ranks: list[int], limit: int = 300) -> list[tuple[int, str]]:
    """What the task does on these nodes of two: exit status and text of each.

    Args:
        folder: programs in it are found before others.
        ranks: of the nodes.
        limit: seconds that one waits for the others.
    """
    task = yaml.safe_load((CLUSTER / "sky.yaml").read_text())
    script = task["run"].replace("/tmp/ray-drcnn", f"{folder}/ray-files")
    assert script.count("limit=300\n") == 1
    script = script.replace("limit=300\n", f"limit={limit}\n")
    for port in ("6479", "8365", "10101"):
        script = script.replace(port, free_port())
    ip = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= task["envs"] | {
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "SKYPILOT_NODE_IPS": f"{ip}\n{ip}",
        "SKYPILOT_NUM_NODES": "2",
        "PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    nodes = [
        subprocess.Popen(
            ["bash", "-c", script],
            env=environment | {"SKYPILOT_NODE_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for rank in ranks
    ]
    try:
        texts = [node.communicate(timeout=240)[0] for node in nodes]
    finally:
        for node in nodes:
            if node.poll() is None:
                os.killpg(node.pid, signal.SIGKILL)
                node.wait()
    return [(node.returncode, text) for node, text in zip(nodes, texts, strict=True)]


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_both_nodes_join_one_ray_run_one_study_and_end_with_it(folder: Path) -> None:
    program(folder, "python", STUDY.format(python=sys.executable))
    head, other = run(folder, [0, 1])
    assert (head[0], other[0]) == (0, 0), (head, other)
    (line,) = (line for line in head[1].splitlines() if line.startswith("nodes "))
    assert line.startswith("nodes 2 studies/run_study.py table_03 ")
    assert line.endswith(f"--output {os.environ['HOME']}/results --address auto")


def test_a_node_whose_head_never_comes_fails(folder: Path) -> None:
    ((status, text),) = run(folder, [1], limit=3)
    assert status == 1
    assert "sky.yaml, node 1: no Ray at " in text


@pytest.mark.parametrize(
    ("ray", "words"),
    [
        ("exit 1", "sky.yaml, node 0: Ray does not start here"),
        ("[ $1 != start ] || exec sleep 100", "sky.yaml, node 0: not all 2 nodes joined Ray within 3 s"),
    ],
    ids=["broken", "alone"],
)
def test_a_head_without_ray_or_without_the_others_fails(folder: Path, ray: str, words: str) -> None:
    program(folder, "ray", f"#!/bin/bash\n{ray}\n")
    ((status, text),) = run(folder, [0], limit=3)
    assert status == 1
    assert words in text


def test_a_node_whose_ray_does_not_start_fails_while_the_head_is_there(folder: Path) -> None:
    """On the second node only; the first one's Ray is a listener here."""
    listen = "import socket, sys, time; s = socket.create_server(('', int(sys.argv[1]))); time.sleep(100)"
    program(
        folder,
        "ray",
        "#!/bin/bash\ncase $* in\n"
        f'*--head*) port=${{3#--port=}}; exec {sys.executable} -c "{listen}" "$port" ;;\n'
        "*--block*) echo this Ray is of another version; exit 1 ;;\nesac\n",
    )
    head, other = run(folder, [0, 1], limit=8)
    assert (head[0], other[0]) == (1, 1)
    assert "another version" in other[1]
    assert "sky.yaml, node 1: ray start ended at once" in other[1]


def test_the_token_is_in_no_file_and_no_command_line() -> None:
    task = yaml.safe_load((CLUSTER / "sky.yaml").read_text())
    assert task["secrets"] == {"RAY_AUTH_TOKEN": None}
    assert task["envs"]["RAY_AUTH_MODE"] == "token"


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


# By SkyPilot's own package, which wants an environment of its own.
READ = """
import json, sys, sky, yaml
task = sky.Task.from_yaml_config(yaml.safe_load(sys.stdin), secrets_overrides=[("RAY_AUTH_TOKEN", "secret")])
(machine,) = task.resources
found = [task.num_nodes, machine.accelerators, machine.use_spot, sorted(task.envs), sorted(task.secrets)]
print(json.dumps(found))
"""


def read_by_skypilot(text: str) -> subprocess.CompletedProcess[str]:
    """What SkyPilot makes of a task, with the interpreter that the command ``sky`` on PATH belongs to."""
    command = shutil.which("sky")
    if command is None:
        pytest.skip("SkyPilot is not on PATH: python -m venv DIR && DIR/bin/pip install skypilot==0.14.1")
    python = Path(command).resolve().with_name("python")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["SKYPILOT_DISABLE_USAGE_COLLECTION"] = "1"
    return subprocess.run(
        [python, "-c", READ], input=text, env=environment, capture_output=True, text=True, check=False
    )


def test_skypilot_reads_the_task_as_it_is_meant() -> None:
    found = read_by_skypilot((CLUSTER / "sky.yaml").read_text())
    assert found.returncode == 0, found.stderr
    nodes, gpus, is_spot, envs, keys = json.loads(found.stdout.splitlines()[-1])
    assert (nodes, gpus, is_spot) == (2, {"A10G": 4}, True)
    assert {"RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED"} <= set(envs)
    assert "RAY_AUTH_TOKEN" in keys


def test_skypilot_refuses_a_slip_of_the_pen() -> None:
    """What the test above relies on."""
    found = read_by_skypilot((CLUSTER / "sky.yaml").read_text().replace("num_nodes:", "num_node:"))
    assert found.returncode != 0
    assert "num_node" in found.stderr
