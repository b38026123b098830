"""A GPU node shuts itself down when its head is gone: cluster/head_watch.sh."""

from __future__ import annotations

import os
import secrets
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hosts import CHECKOUT, make_hosts, why_not

SCRIPT = CHECKOUT / "cluster/head_watch.sh"
# In place of the real ones: the first leaves a trace, the second does not make the test wait.
SHUTDOWN = '#!/bin/sh\necho "$@" > {folder}/shut_down\n'
SLEEP = "#!/bin/sh\nexec /bin/sleep 0.2\n"


def programs(folder: Path, seen_as: str) -> None:
    """Write what the script calls into a folder, which may have another name where the script runs."""
    for name, text in (("shutdown", SHUTDOWN.format(folder=seen_as)), ("sleep", SLEEP)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


@contextmanager
def head(address: str) -> Iterator[None]:
    """Something that listens where Ray's head does."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, 6379))
        server.listen(100)
        yield


def test_a_node_lives_while_its_head_answers_and_ends_when_it_does_not(tmp_path: Path) -> None:
    programs(tmp_path, str(tmp_path))
    # An address of this machine that nobody else uses.
    address = f"127.{secrets.randbelow(250) + 2}.{secrets.randbelow(250) + 2}.7"
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", str(SCRIPT), address, "3"]
    with head(address):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        time.sleep(6)
        assert process.poll() is None
        assert not (tmp_path / "shut_down").exists()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f"{address} has not answered for 3 s" in out
    assert (tmp_path / "shut_down").read_text() == "-h now\n"


@pytest.mark.parametrize("arguments", [[], ["10.0.0.1"], ["10.0.0.1", "soon"]], ids=" ".join)
def test_wrong_arguments_shut_nothing_down(tmp_path: Path, arguments: list[str]) -> None:
    programs(tmp_path, str(tmp_path))
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", str(SCRIPT), *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "usage: head_watch.sh HEAD SECONDS" in done.stderr
    assert not (tmp_path / "shut_down").exists()


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_a_head_that_is_cut_off_without_a_word_is_gone_too(tmp_path: Path) -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with make_hosts(["head", "node"], tmp_path, laptop="node") as hosts:
        hosts["head"].start(f"{sys.prefix}/bin/python -m http.server 6379")
        hosts["head"].run("until (: < /dev/tcp/127.0.0.1/6379) 2> /dev/null; do sleep 0.1; done")
        home = hosts["node"].files / "root"
        programs(home, "/root")
        ip = hosts["head"].ip
        watch = hosts["node"].start(f"PATH=/root:$PATH bash {shlex.quote(str(SCRIPT))} {ip} 12")
        time.sleep(14)
        assert watch.poll() is None
        hosts["head"].unplug()
        text, _ = watch.communicate(timeout=120)
        assert f"{ip} has not answered for 12 s" in text
        assert (home / "shut_down").read_text() == "-h now\n"
