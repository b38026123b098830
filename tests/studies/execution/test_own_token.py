from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from launch_helpers import Launch, write_study
from study_helpers import assignments

STUDY = "title: Mine\nkind: grid\ngrid: {detector.nms_reg: [0.7]}\n"
STRANGER = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False); print(ray.nodes())"


def servers(of: int) -> list[tuple[str, dict[str, str]]]:
    """The address and the environment of each Ray that this launch has started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(process.name)) != os.getsid(of):
                continue
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            pairs = (process / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        port = re.search(r"gcs_server_port=(\d+)", command)
        if port and "/gcs_server\0" in command:
            found.append((f"127.0.0.1:{port[1]}", dict(pair.split("=", 1) for pair in pairs if "=" in pair)))
    return found


def join(address: str, **token: str) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", STRANGER, address]
    done = subprocess.run(command, env=environment | token, capture_output=True, timeout=120, check=False)
    return done.returncode


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_strangers_cannot_join_the_ray_of_a_launch(tmp_path: Path) -> None:
    output = tmp_path / "runs"
    output.mkdir()
    launch = Launch(output, write_study(output, STUDY), "--set", *assignments(training__epochs=200))
    try:
        launch.wait_until(lambda: any(output.glob("trials/*/last.safetensors")))
        ((address, environment),) = servers(launch.process.pid)
        token = {name: environment[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
        assert join(address) != 0
        assert join(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64) != 0
        assert join(address, **token) == 0, "it is the token that keeps strangers out"
    finally:
        launch.process.terminate()
        status, _, _ = launch.end()
    assert status == 130
    arguments = b"".join(path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
    assert token["RAY_AUTH_TOKEN"].encode() not in arguments
