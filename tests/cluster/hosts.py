"""Hosts of a small network on one machine, each with its own processes, files, name, address and SSH server.

A host is a set of namespaces (PID, mount, UTS, network) whose first process is its SSH server. It sees the
machine's root file system read-only, with folders of its own over those that programs write to, the Python
environment of the tests, and one folder that all hosts share. The hosts meet at a bridge, in a network
namespace that leads nowhere else.

Nothing outlives its user: all hosts are inside one PID namespace, whose first process reads a pipe that this
process holds. When the pipe closes, on purpose or because this process died in whatever way, the kernel kills
all that is inside; mounts, networks and the bridge go with the last process that used them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CHECKOUT", "KEY", "SHARED", "Host", "make_hosts", "why_not"]

CHECKOUT = Path(__file__).resolve().parents[2]
# On every host: the folder that all share, and the key that opens them all.
SHARED = "/mnt/shared"
KEY = "/root/.ssh/id_ed25519"
# Where a host has files of its own. The checkout is among them: code must come the way a user brings it.
OWN = ("/mnt", "/root", "/run", "/tmp", "/var/tmp", str(CHECKOUT))
PYTHON = (os.path.realpath(sys.base_prefix), sys.prefix)
TOOLS = ("ip", "unshare", "nsenter", "pivot_root", "sshd", "ssh", "ssh-keygen", "rsync")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Needs HOST (a folder), NAME, OWN, SHARED and SEEN. The first process of a host becomes its SSH server,
# which also reaps what daemons leave behind.
BOOT = r"""
set -eu
read -r pid _ < /proc/self/stat  # as the machine counts: /proc is still the machine's
root=$HOST/root
mount --bind / "$root"
mount -o remount,bind,ro "$root"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
for file in "$HOST"/etc/*; do mount --bind "$file" "$root/etc/${file##*/}"; done
for folder in $OWN; do
    mkdir -p "$HOST/own$folder" "$root$folder"
    mount --bind "$HOST/own$folder" "$root$folder"
done
for folder in $SEEN; do
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
    mount -o remount,bind,ro "$root$folder"
done
mkdir -p "$root$SHARED" "$root/run/sshd"
mount --bind "$HOST/../shared" "$root$SHARED"
echo "$NAME" > "$root/proc/sys/kernel/hostname"
cd "$root"
pivot_root . .
umount --lazy .
cd /
echo "$pid" > /run/draft
mv /run/draft /run/pid
exec "$(command -v sshd)" -D -e -f /dev/null -o HostKey="$KEY" -o StrictModes=no -o PasswordAuthentication=no
"""

# Run beside the bridge; needs NAME, PID and IP of a host.
PLUG = r"""
set -eu
ip link add "$NAME" type veth peer name eth0 netns "$PID"
ip link set "$NAME" master bridge up
nsenter --target "$PID" --net sh -c "ip link set lo up; ip address add $IP/24 dev eth0; ip link set eth0 up
ip route add default dev eth0"  # leads nowhere, but programs find their own address by it
"""

WIRE = r"""
set -eu
read -r pid _ < /proc/self/stat
ip link add bridge type bridge
ip link set bridge up
echo "$pid" > "$FOLDER/draft"
mv "$FOLDER/draft" "$FOLDER/pid"
exec cat
"""


@dataclass(frozen=True)
class Host:
    """One host.

    Attributes:
        name: by which the others know it too.
        ip: its address.
        files: what it wrote: ``files / "tmp"`` is its ``/tmp``.
        pid: of its first process.
        wire: the process that holds the bridge.
    """

    name: str
    ip: str
    files: Path
    pid: int
    wire: int

    def start(self, command: str) -> subprocess.Popen[str]:
        """Start a shell command, as root does who has logged in; all it prints comes in one pipe."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--uts"]
        shell = ["env", "-i", "HOME=/root", "USER=root", "bash", "--login", "-c"]
        return subprocess.Popen(
            [*enter, *shell, f"cd; {command}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str, timeout: float = 60) -> str:
        """Run a shell command, which must not fail, and return what it printed."""
        process = self.start(command)
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            raise AssertionError(f"{self.name}: not done in {timeout:g} s: {command}\n{output}") from None
        assert process.returncode == 0, f"{self.name}: {command}: status {process.returncode}\n{output}"
        return output

    def plug(self) -> None:
        """Connect it to the others again."""
        subprocess.run([*_beside(self.wire), "ip", "link", "set", self.name, "up"], check=True)

    def unplug(self) -> None:
        """Cut its network: the others hear nothing more, not even that connections are closed."""
        subprocess.run([*_beside(self.wire), "ip", "link", "set", self.name, "down"], check=True)

    def kill(self) -> None:
        """End it as a power cut does: everything that runs there, at once."""
        os.kill(self.pid, signal.SIGKILL)

    def is_alive(self) -> bool:
        """Whether it was not killed."""
        return Path(f"/proc/{self.pid}").exists()


def why_not() -> str | None:
    """Say what this machine lacks to make hosts, if it lacks anything."""
    if os.geteuid() != 0:
        return "hosts are made of namespaces, which needs root"
    missing = [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]
    if missing:
        return f"not found: {', '.join(missing)} (Debian's iproute2, openssh-server, rsync, util-linux)"
    trial = "mount -t tmpfs tmpfs /mnt && ip link add type bridge && ip link add type veth"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "sh", "-c", trial],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": PATH},
    )
    return f"namespaces cannot be made here: {tried.stderr.strip()}" if tried.returncode else None


@contextmanager
def make_hosts(names: Sequence[str], folder: Path, *, laptop: str) -> Iterator[dict[str, Host]]:
    """Make hosts that know each other's names and open to one key; they are gone in the end.

    Args:
        names: of the hosts.
        folder: empty; what the hosts write is there, and stays.
        laptop: the host that sees this checkout.
    """
    ips = {name: f"10.77.0.{number}" for number, name in enumerate(names, start=1)}
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    (folder / "shared").mkdir()
    booted, found = [], {}
    try:
        with _wire(folder) as wire:
            for name, ip in ips.items():
                is_laptop = name == laptop
                _write_files(folder / name, key, ips, has_python=is_laptop)
                booted.append(_boot(folder / name, wire, [*PYTHON, str(CHECKOUT)] if is_laptop else PYTHON))
                pid = int(_wait_for(folder / name / "own/run/pid", booted[-1]))
                variables = {"PATH": PATH, "NAME": name, "PID": str(pid), "IP": ip}
                subprocess.run([*_beside(wire), "sh", "-c", PLUG], check=True, env=variables)
                found[name] = Host(name, ip, folder / name / "own", pid, wire)
            for host in found.values():
                host.run("until (: < /dev/tcp/127.0.0.1/22) 2> /dev/null; do sleep 0.05; done", timeout=20)
            yield found
    finally:
        for process in booted:
            process.wait()


@contextmanager
def _wire(folder: Path) -> Iterator[int]:
    """Make the bridge, and the PID namespace around all hosts; give its first process."""
    process = subprocess.Popen(
        ["unshare", "--net", "--pid", "--fork", "bash", "-c", WIRE],
        stdin=subprocess.PIPE,
        env={"PATH": PATH, "FOLDER": str(folder)},
        start_new_session=True,
    )
    assert process.stdin is not None
    try:
        yield int(_wait_for(folder / "pid", process))
    finally:
        process.stdin.close()
        process.wait()


def _boot(folder: Path, wire: int, seen: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a host; its files must be there."""
    variables = {
        "PATH": PATH,
        "HOST": str(folder),
        "NAME": folder.name,
        "KEY": KEY,
        "OWN": " ".join(OWN),
        "SEEN": " ".join(seen),
        "SHARED": SHARED,
    }
    unshare = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork"]
    with (folder / "sshd.log").open("w") as log:
        return subprocess.Popen(
            ["nsenter", f"--target={wire}", "--pid", *unshare, "bash", "-c", BOOT],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=variables,
            start_new_session=True,
        )


def _write_files(folder: Path, key: Path, ips: dict[str, str], *, has_python: bool) -> None:
    """What a host has before it starts: the names of all, the key, and shells that find Python or don't."""
    (folder / "root").mkdir(parents=True)
    (folder / "etc").mkdir()
    # Debian's installer gives a host's own name an address that no other host reaches; so do we.
    others = [f"{ip} {name}" for name, ip in ips.items() if name != folder.name]
    lines = ["127.0.0.1 localhost", f"127.0.1.1 {folder.name}", *others]
    (folder / "etc/hosts").write_text("\n".join(lines) + "\n")
    (folder / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nshadow: files\nhosts: files\n")
    home = folder / "own/root"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    shutil.copy(key, home / ".ssh/id_ed25519")
    shutil.copy(key.with_suffix(".pub"), home / ".ssh/authorized_keys")
    (home / ".profile").write_text(". ~/.bashrc\n")
    (home / ".bashrc").write_text(f"export PATH={sys.prefix}/bin:{PATH}\n" if has_python else "")


def _beside(wire: int) -> list[str]:
    """What to put before a command for it to run in the bridge's network."""
    return ["nsenter", f"--target={wire}", "--net"]


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> str:
    """What a file says, as soon as a process has written it."""
    limit = time.monotonic() + 30
    while not path.exists():
        assert process.poll() is None, f"ended before it wrote {path}: see {path.parents[2]}"
        assert time.monotonic() < limit, f"{path} is not there after 30 s"
        time.sleep(0.02)
    return path.read_text()
