"""The files of cluster/: what Ray, a shell and our own command line make of them."""

from __future__ import annotations

import copy
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from cluster_files import CLOUDS, CLUSTER, LAUNCHED, ROOT, commands, read
from ray._private.resource_and_label_spec import ResourceAndLabelSpec
from ray._private.runtime_env.packaging import get_excludes_from_ignore_files
from ray.autoscaler._private.command_runner import SSHCommandRunner
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.dashboard.modules.job.job_supervisor import JobSupervisor
from ray.scripts.scripts import cli, start

from studies.definition.request import Machines
from studies.resources.slots import NodeShape, allocate
from studies.run_study import _study_parser

SCRIPTS = sorted(CLUSTER.glob("*.sh"))
TEXTS = [path for path in sorted(CLUSTER.rglob("*")) if path.is_file()]


def start_options() -> set[str]:
    return {option for parameter in start.params for option in parameter.opts}


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_accepts_the_file(name: str) -> None:
    prepared = prepare_config(copy.deepcopy(read(name)))
    validate_config(prepared)
    workers = {key: kind for key, kind in prepared["available_node_types"].items() if key != "head"}
    assert prepared["max_workers"] >= sum(kind["max_workers"] for kind in workers.values())


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_rejects_a_slip_of_the_pen(name: str) -> None:
    """What the test above relies on."""
    config = read(name) | {"max_worker": 1}
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config(config))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_no_secret_is_in_any_file(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN|://[^/\s:]+:[^/\s@$]+@", text)
    given = re.findall(r"(?i)(?:token|password|secret|_key)\w*\s*[:=]\s*[\"']?([\w+/=-]{16,})", text)
    assert not given


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_head_runs_no_trials_and_listens_on_loopback(name: str) -> None:
    config = read(name)
    (command,) = (each for each in config["head_start_ray_commands"] if "--head" in each)
    assert {"--num-cpus=0", "--num-gpus=0", "--dashboard-host=127.0.0.1"} <= set(shlex.split(command))
    if name in CLOUDS:
        assert config["available_node_types"]["head"]["resources"] == {"CPU": 0, "GPU": 0}
        assert config["available_node_types"]["head"]["max_workers"] == 0


@pytest.mark.parametrize("name", CLOUDS)
def test_the_head_has_memory_for_the_groups_that_are_promised(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Ray counts on a machine of 32 GiB, with its system at work, and how many trials that makes."""
    (command,) = (each for each in read(name)["head_start_ray_commands"] if "--head" in each)
    options = dict(word.split("=", 1) for word in shlex.split(command) if "=" in word)
    monkeypatch.setattr("ray._common.utils.get_system_memory", lambda: 31 * 2**30)
    monkeypatch.setattr("ray._private.utils.estimate_available_memory", lambda: 30 * 2**30)

    def counted(store: int | None) -> float:
        spec = ResourceAndLabelSpec(object_store_memory=store)
        spec._resolve_memory_resources()
        return float(spec.memory) / 2**30

    nodes = [NodeShape(64, 8)] * 64
    gib = counted(int(options["--object-store-memory"]))
    assert allocate(Machines("auto", 2), nodes, gib).concurrent >= 18
    assert allocate(Machines("auto", 2), nodes, counted(None)).concurrent < 18, "why the option is there"
    for text in ((CLUSTER / f"{name}.yaml").read_text(), (CLUSTER / "README.md").read_text()):
        assert "some eighteen" in text


@pytest.mark.parametrize("name", LAUNCHED)
def test_all_nodes_ask_for_the_token(name: str) -> None:
    config = read(name)
    mounts = config["file_mounts"]
    if name in CLOUDS:
        assert "--env=RAY_AUTH_MODE=token" in config["docker"]["run_options"]
        assert mounts["/home/ray/.ray"] == "~/.ray"
    else:
        assert "RAY_AUTH_MODE=token" in (CLUSTER / "on_prem.env").read_text()
        starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
        assert all(command.startswith(". ~/drcnn/cluster/on_prem.env; ") for command in starts)
        assert mounts["~/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("name", LAUNCHED)
def test_a_stopped_job_has_time_to_close_its_runs(name: str) -> None:
    assert JobSupervisor.DEFAULT_RAY_JOB_STOP_WAIT_TIME_S < 120
    assert "RAY_JOB_STOP_WAIT_TIME_S" in inspect.getsource(JobSupervisor)
    if name in CLOUDS:
        assert "--env=RAY_JOB_STOP_WAIT_TIME_S=120" in read(name)["docker"]["head_run_options"]
    else:
        assert "export RAY_JOB_STOP_WAIT_TIME_S=120\n" in (CLUSTER / "on_prem.env").read_text()


@pytest.mark.parametrize("name", LAUNCHED)
def test_what_commands_name_in_the_checkout_is_there(name: str) -> None:
    mounts = read(name)["file_mounts"]
    ours = {remote: local for remote, local in mounts.items() if not local.startswith("~")}
    assert list(ours.values()) == ["."]
    named = {path for command in commands(name) for path in re.findall(r"~/drcnn/([\w./-]+)", command)}
    wanted = "cluster/mlflow_server.sh" if name in CLOUDS else "cluster/requirements.lock"
    assert wanted in named
    assert all((ROOT / path).is_file() for path in named)


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_start_has_the_options_that_are_used(name: str) -> None:
    for command in commands(name):
        for words in (shlex.split(part) for part in command.split("ray start")[1:]):
            given = {word.split("=")[0] for word in words if word.startswith("--")}
            assert given
            assert given <= start_options()


@pytest.mark.parametrize("name", LAUNCHED)
def test_a_shell_can_read_every_command(name: str) -> None:
    for command in commands(name):
        # As Ray hands it on.
        script = f"export RAY_HEAD_IP=192.0.2.1; {command}\n"
        subprocess.run(["bash", "-n"], input=script, text=True, check=True, capture_output=True)
        shellcheck("-", "--exclude=SC1090,SC2086", script=script)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_shell_can_read_every_script(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True, capture_output=True)
    shellcheck(str(path))
    assert path.stat().st_mode & 0o111


def shellcheck(*arguments: str, script: str | None = None) -> None:
    # In the environment that runs the tests, activated or not.
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        return
    done = subprocess.run(
        [program, "--shell=bash", *arguments], input=script, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def strings(value: Any) -> Iterator[str]:
    """All strings of a YAML document, as their readers get them."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


def study_commands() -> Iterator[tuple[str, str]]:
    """Every command line of run_study.py in cluster/, with the file that it stands in."""
    for path in TEXTS:
        text = path.read_text()
        if path.suffix == ".yaml":
            text = "\n".join(strings(list(yaml.safe_load_all(text))))
        text = re.sub(r"\\\n +", "", text)
        for found in re.finditer(r"(?:run_study\.py|cluster/slurm\.sh) +([a-zN][^\n`']*)", text):
            yield path.name, found[1]


def test_every_command_line_of_a_study_is_one() -> None:
    seen = set()
    for name, line in study_commands():
        seen.add(name)
        try:
            _study_parser().parse_args(shlex.split(line))
        except SystemExit:
            pytest.fail(f"{name}: {line}")
    assert {"README.md", "kuberay.yaml", "slurm.sh"} <= seen


def blocks() -> str:
    """All commands of README.md, one a line."""
    found = re.findall(r"^```\n(.*?)^```", (CLUSTER / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    return "".join(found).replace("\\\n", "")


def test_every_command_line_of_ray_is_one() -> None:
    lines = [
        found[1] for found in re.finditer(r"(?:^|&& |=0 )ray (.*?)(?= && | > |$)", blocks(), re.MULTILINE)
    ]
    # A command given in quotes goes over two lines.
    lines = [line if line.count("'") % 2 == 0 else f"{line}'" for line in lines]
    assert len(lines) >= 10
    for line in lines:
        command: Any = cli
        words = shlex.split(line, comments=True)
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        command.make_context("ray", words)


def test_readme_makes_nothing_in_the_checkout() -> None:
    """What lies there is copied to every node, and sent with every job."""
    assert not re.findall(r"(?<![\w./])(?:VOCdevkit|results|[\w-]+\.(?:dump|json))\b", blocks())


def test_what_git_ignores_is_not_sent_and_all_else_is(tmp_path: Path) -> None:
    kept = {
        ".gitignore",
        "drcnn/data/formats/voc.py",
        "studies/results.py",
        "cluster/gpu.yaml",
        "provenance.json",
    }
    ignored = {"VOCdevkit/VOC2007/a.jpg", "results/a", "runs/a", "mlflow.dump", ".venv/a", "drcnn.egg-info/a"}
    for name in kept | ignored:
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / name).touch()
    shutil.copy(ROOT / ".gitignore", tmp_path / "here")
    (excluded,) = get_excludes_from_ignore_files(tmp_path / "here", include_gitignore=True)
    assert {name for name in kept | ignored if not excluded(tmp_path / "here" / name)} == kept
    if shutil.which("rsync"):
        for name in LAUNCHED:
            options = SSHCommandRunner._create_rsync_filter_args(None, read(name))
            subprocess.run(["rsync", "-a", *options, f"{tmp_path}/here/", tmp_path / name], check=True)
            sent = (path for path in (tmp_path / name).rglob("*") if path.is_file())
            assert {path.relative_to(tmp_path / name).as_posix() for path in sent} == kept
