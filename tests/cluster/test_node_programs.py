"""What the nodes of the clouds run: one image, and what watches over them."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import pytest
from cluster_files import CLOUDS, CLUSTER, ROOT, commands, read
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.autoscaler._private.command_runner import DockerCommandRunner, SSHOptions
from ray.autoscaler._private.util import prepare_config, with_head_node_ip
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

from studies.machines import spot_notice

IMAGE = "rayproject/ray:{version}-py311-gpu"


def test_the_image_has_the_ray_that_the_project_wants() -> None:
    wanted = next(each for each in map(Requirement, requires("drcnn") or []) if each.name == "ray")
    assert wanted.specifier.contains(version("ray"))
    assert f"FROM {IMAGE.format(version=version('ray'))}\n" in (CLUSTER / "Dockerfile").read_text()
    assert f"rayVersion: {version('ray')}\n" in (CLUSTER / "kuberay.yaml").read_text()
    assert locked()["ray"] == version("ray")


def test_all_nodes_run_the_image_of_the_dockerfile() -> None:
    assert "cluster/requirements.lock" in (CLUSTER / "Dockerfile").read_text()
    for name in CLOUDS:
        image = read(name)["docker"]["image"]
        assert image.endswith("/drcnn:1")
        assert image == read(name)["metadata"]["image"]
        # Nothing is added to it on the nodes.
        assert not [command for command in commands(name) if "pip " in command]
    assert "REGISTRY/drcnn:1" in (CLUSTER / "kuberay.yaml").read_text()


def test_the_images_packages_come_first_in_every_shell() -> None:
    """Login shells, as Ray and KubeRay start them, forget the image's PATH."""
    text = (CLUSTER / "Dockerfile").read_text()
    assert "\nENV PATH=/home/ray/env/bin:$PATH\n" in text
    (line,) = re.findall(r"^RUN (echo 'export PATH.*)$", text, re.MULTILINE)
    assert line.startswith("echo 'export PATH=/home/ray/env/bin:$PATH' ")
    assert {"/home/ray/.bashrc", "/home/ray/.profile"} <= set(line.split())


def locked() -> dict[str, str]:
    """The version of each package in the image."""
    lines = (CLUSTER / "requirements.lock").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    found = {}
    for pin in pins:
        (exact,) = pin.specifier
        assert exact.operator == "=="
        found[canonicalize_name(pin.name)] = exact.version
    return found


def test_the_lock_has_all_that_the_project_wants_in_the_versions_of_the_tests() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in (*project["dependencies"], *project["optional-dependencies"]["cluster"]):
        wanted = Requirement(line)
        assert wanted.specifier.contains(locked()[canonicalize_name(wanted.name)]), line
    for line in (ROOT / ".ci/constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, tested = line.partition("==")
            assert locked().get(canonicalize_name(name), tested) == tested, name


def initialization(name: str) -> list[str]:
    found: list[str] = read(name)["available_node_types"]["gpu"]["initialization_commands"]
    return found


@pytest.mark.parametrize("name", CLOUDS)
def test_docker_is_asked_over_a_connection_that_knows_of_the_new_group(name: str) -> None:
    """Ray's own is older; it is closed when it was not used for some seconds, and only then made anew."""
    persist = SSHOptions("key", control_path="/tmp").arg_dict["ControlPersist"]
    for found in (read(name)["initialization_commands"], initialization(name)):
        assert found[0].startswith("sudo usermod -aG docker")
        assert int(found[1].removeprefix("sleep ")) > int(persist.removesuffix("s"))
    # Commands of a node type are run instead of those for all, not besides.
    assert set(read(name)["initialization_commands"]) - set(initialization(name)) <= {
        "mkdir -p /home/ubuntu/results"
    }


@pytest.mark.parametrize("name", CLOUDS)
def test_gpu_nodes_watch_their_head_with_the_script_that_ray_has_copied_to_the_machine(name: str) -> None:
    config = read(name)
    (command,) = (each for each in initialization(name) if "head_watch" in each)
    (mount,) = (remote for remote, local in config["file_mounts"].items() if local == ".")
    host = DockerCommandRunner._get_docker_host_mount_location(None, config["cluster_name"])
    assert f"sudo install {host}{mount}/cluster/head_watch.sh /usr/local/bin/" in command
    assert command.endswith('/usr/local/bin/head_watch.sh "$RAY_HEAD_IP" 900')
    # Ray tells it the head's address, as it does in start commands.
    prepared = AutoscalingConfig(prepare_config(copy.deepcopy(config)), skip_content_hash=True)
    assert command in prepared.get_initialization_commands("gpu")
    (told,) = with_head_node_ip([command], "192.0.2.1")
    assert "RAY_HEAD_IP=192.0.2.1" in told.replace("'", "").replace('"', "")


def start_script(name: str) -> str:
    """What a GPU node of a cloud runs as root when it starts."""
    node: dict[str, Any] = read(name)["available_node_types"]["gpu"]["node_config"]
    if name == "gpu":
        return str(node["UserData"])
    (script,) = (each["value"] for each in node["metadata"]["items"] if each["key"] == "startup-script")
    return str(script)


@pytest.mark.parametrize("is_watched", [True, False])
@pytest.mark.parametrize("name", CLOUDS)
def test_a_node_whose_setup_never_ends_shuts_itself_down(
    name: str, tmp_path: Path, *, is_watched: bool
) -> None:
    """The script that the machine starts with, with the machine's own programs imitated."""
    programs = {
        # Does at once what is to be done in three quarters of an hour.
        "systemd-run": 'echo "$@" > "$0.asked"; shift 2; exec "$@"',
        "systemctl": f'[ "$*" = "is-active --quiet head_watch" ] && exit {0 if is_watched else 3}',
        "shutdown": 'echo "$@" > "$0.asked"',
    }
    for program, text in programs.items():
        (tmp_path / program).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / program).chmod(0o755)
    script = start_script(name)
    # Both run what begins so; EC2 takes no more than 16 KiB.
    assert script.startswith("#!/bin/bash\n")
    assert len(script) < 16 * 1024
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    subprocess.run(["bash", "-c", script], env=environment, check=True)
    assert (tmp_path / "systemd-run.asked").read_text().startswith("--on-active=2700 --unit=setup_watch ")
    assert (tmp_path / "shutdown.asked").exists() != is_watched


@pytest.mark.parametrize("name", CLOUDS)
def test_gpu_nodes_wait_for_the_clouds_notice(name: str) -> None:
    (command,) = (each for each in read(name)["worker_start_ray_commands"] if "spot_notice" in each)
    cloud = {"gpu": "aws", "gcp": "gcp"}[name]
    assert f"python -m studies.machines.spot_notice {cloud} $RAY_HEAD_IP:6379" in command
    assert cloud in spot_notice.CLOUDS


@pytest.mark.parametrize("name", CLOUDS)
def test_mlflows_record_is_saved_where_the_head_is_not(name: str) -> None:
    start, keep = read(name)["head_start_ray_commands"][-2:]
    assert " start ~/results/mlflow " in start
    assert re.search(r" keep ~/results/mlflow (s3|gs)://MY-BUCKET/record$", keep)


def test_the_jobs_logs_of_all_sessions_of_a_head_are_saved(tmp_path: Path) -> None:
    """`ray up` begins another session: what the one before wrote in its last hour is saved all the same."""
    for session, job in (("session_2026-01-01", "first"), ("session_2026-01-02", "second")):
        logs = tmp_path / "ray" / session / "logs"
        logs.mkdir(parents=True)
        (logs / f"job-driver-{job}.log").write_text(job)
    (tmp_path / "ray/session_latest").symlink_to("session_2026-01-02")
    (tmp_path / "dump").touch()
    (tmp_path / "record").mkdir()
    script = (CLUSTER / "mlflow_server.sh").read_text().partition("save_to() {")[2]
    program = script.partition("<<'PYTHON'\n")[2].partition("\nPYTHON\n")[0]
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "dump"), str(tmp_path / "record")],
        env=os.environ | {"RAY_TMPDIR": str(tmp_path)},
        check=True,
    )
    saved = {path.name: path.read_text() for path in (tmp_path / "record/jobs").iterdir()}
    assert saved == {"job-driver-first.log": "first", "job-driver-second.log": "second"}
