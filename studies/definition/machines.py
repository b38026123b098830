"""What the command line says about machines. Apart from ``capacity``: bad input is told without Ray."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Machines"]


@dataclass(frozen=True)
class Machines:
    """What the command line says about where and how widely to run."""

    address: str = "local"
    workers: int = 1
    gpus_per_worker: float | None = None
    max_concurrent: int | None = None

    @property
    def is_cluster(self) -> bool:
        """Whether somebody else's Ray is joined."""
        return self.address != "local"
