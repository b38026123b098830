"""The network interface that workers of one trial talk over, on clusters of several nodes."""

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

    Left alone, gloo takes the address of the host's name. Many systems call that 127.0.0.1 or 127.0.1.1,
    which no other node reaches. A ``GLOO_SOCKET_IFNAME`` that a node sets itself is kept. NCCL finds its way
    alone.
    """

    @property
    def backend_cls(self) -> type[Any]:
        """The backend that Ray Train starts on every worker."""
        return _Backend


class _Backend(Backend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_choose)
        super().on_start(worker_group, backend_config)


def _choose() -> None:
    found = interface_of(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    if found is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", found)


def interface_of(address: str) -> str | None:
    """The name of the network interface that has an IPv4 address; none if no one has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(asking.fileno(), SIOCGIFADDR, request)
            except OSError:
                continue  # it has none
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
