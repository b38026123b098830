"""A Ray cluster of hosts in namespaces, started as cluster/README.md tells the owners of machines to."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from hosts import CHECKOUT, KEY, Host, make_hosts

__all__ = ["CONFIG", "HEAD", "WORKERS", "Cluster", "ray_up"]

HEAD = "head"
WORKERS = ("node1", "node2", "node3")
CONFIG = "/root/on_prem.yaml"
# Ray waits 65 s for a machine that has gone silent; two missed answers instead of five are 26 s.
IMPATIENT = "RAY_health_check_failure_threshold=2"


class Cluster:
    """The cluster as it is seen from the laptop.

    Attributes:
        hosts: by name: the laptop, the head, the workers, and one that is no part of Ray.
        shared: the folder that they share, as a path of this machine.
    """

    def __init__(self, hosts: dict[str, Host], shared: Path) -> None:
        self.hosts, self.shared = hosts, shared

    def command(self, command: str) -> str:
        """Return a shell command of the laptop's user, who is in the checkout and has the token."""
        user = "export RAY_AUTH_MODE=token RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265"
        return f"{user}; cd {shlex.quote(str(CHECKOUT))}; {command}"

    def run(self, command: str, timeout: float = 60) -> str:
        """Run a command of the laptop's user, which must not fail, and return what it printed."""
        return self.hosts["laptop"].run(self.command(command), timeout)

    def workers(self) -> list[str]:
        """The names of the hosts on which workers of Ray Train have run."""
        logs = "tmp/ray/session_*/logs/train/ray-train-app-worker-*"
        return [name for name, host in self.hosts.items() if any(host.files.glob(logs))]

    def wait_for_cpus(self, number: int) -> None:
        """Wait until the workers that are up have so many CPUs."""
        limit = time.monotonic() + 600
        while f"/{number}.0 CPU" not in (status := self.hosts[HEAD].run("ray status 2>&1 || true")):
            assert time.monotonic() < limit, status
            time.sleep(2)


@contextmanager
def ray_up(folder: Path) -> Iterator[Cluster]:
    """Start a head and two workers of one CPU each. A third worker is listed as well, but cut off as yet."""
    with make_hosts(["laptop", HEAD, *WORKERS, "store"], folder, laptop="laptop") as hosts:
        hosts["node3"].unplug()
        for name in (HEAD, *WORKERS):
            # What the file's setup command makes where it is missing.
            (hosts[name].files / "root/drcnn-env").symlink_to(sys.prefix)
        (hosts["laptop"].files / CONFIG[1:]).write_text(yaml.safe_dump(_config(hosts)))
        cluster = Cluster(hosts, folder / "shared")
        cluster.run("ray get-auth-token --generate > /dev/null")
        cluster.run(f"RAY_UP_enable_autoscaler_v2=0 ray up --yes {CONFIG}", timeout=600)
        hosts["laptop"].start(cluster.command(f"ray dashboard {CONFIG}"))
        cluster.wait_for_cpus(2)
        cluster.run("until (: < /dev/tcp/127.0.0.1/8265) 2> /dev/null; do sleep 0.2; done")
        yield cluster


def _config(hosts: dict[str, Host]) -> dict[str, object]:
    """The project's own file with these hosts in it, and one CPU a host, so that trials need two hosts."""
    config: dict[str, object] = yaml.safe_load((CHECKOUT / "cluster/on_prem.yaml").read_text())
    config["provider"] = {
        "type": "local",
        "head_ip": hosts[HEAD].ip,
        "worker_ips": [hosts[name].ip for name in WORKERS],
    }
    config["auth"] = {"ssh_user": "root", "ssh_private_key": KEY}
    for key, changed in (
        ("head_start_ray_commands", f"{IMPATIENT} ray start "),
        ("worker_start_ray_commands", "ray start --num-cpus=1 "),
    ):
        commands = config[key]
        assert isinstance(commands, list)
        config[key] = [command.replace("ray start ", changed) for command in commands]
    return config
