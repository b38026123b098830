"""The files that ``ray up`` reads, and the commands in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

__all__ = ["CLOUDS", "CLUSTER", "LAUNCHED", "ROOT", "commands", "read"]

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
CLOUDS = ("gpu", "gcp")
LAUNCHED = (*CLOUDS, "on_prem")
COMMANDS = re.compile(r"(initialization|setup|start_ray)_commands$")


def read(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())
    return config


def commands(name: str) -> list[str]:
    config = read(name)
    sections = [config, *config.get("available_node_types", {}).values()]
    found = [(key, value) for section in sections for key, value in section.items()]
    return [command for key, value in found if COMMANDS.search(key) for command in value]
