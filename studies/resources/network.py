"""Selects the network interface over which the workers of one trial talk when they are on several nodes."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from typing import Any

import ray
from ray.train.torch import TorchConfig

__all__ = ["TorchOnNodeAddress", "interface_of"]

SIOCGIFADDR = 0x8915

Backend: Any = TorchConfig().backend_cls


class TorchOnNodeAddress(TorchConfig):
    """Ray Train's torch backend, with gloo on the interface that has the node's address.

    By default gloo uses the address that the host's name resolves to. On many systems that is 127.0.0.1 or
    127.0.1.1, which other nodes cannot reach. A ``GLOO_SOCKET_IFNAME`` set on a node is kept. NCCL needs no
    help.
    """

    @property
    def backend_cls(self) -> type[Any]:
        """Return the backend that Ray Train starts on every worker."""
        return _Backend


class _Backend(Backend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_set_interface)
        super().on_start(worker_group, backend_config)


def _set_interface() -> None:
    interface = interface_of(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


def interface_of(address: str) -> str | None:
    """Return the name of the network interface with an IPv4 address; none if there is no such interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(udp.fileno(), SIOCGIFADDR, request)
            except OSError:
                continue  # an interface without an IPv4 address
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
