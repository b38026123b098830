"""Which settings tell a study's configurations apart: they name its trials and head its tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["telling", "trial_name"]

# A named variant or schedule brings several settings; these say best which one it was.
FIRST = ("detector.stages", "training.epochs", "data.train_short_sides")

Flat = Mapping[str, Any]


def telling(named: Sequence[str], configurations: Sequence[Flat]) -> list[str]:
    """Return the keys to show: of ``named`` those that vary, and what else it takes to tell all apart.

    >>> telling(["variant"], [{"variant": "decoupled", "stages": 1}, {"variant": "decoupled", "stages": 3}])
    ['variant', 'stages']

    Args:
        named: the keys that the study names itself.
        configurations: every setting of each.
    """
    varying = [key for key in named if len(_values([key], configurations)) > 1]
    keys = varying or list(named)
    everything = list(configurations[0]) if configurations else []
    most = len(_values(everything, configurations))
    for key in dict.fromkeys([*(key for key in FIRST if key in everything), *everything]):
        told = len(_values(keys, configurations))
        if told == most:
            break
        if key != "seed" and len(_values([*keys, key], configurations)) > told:
            keys.append(key)
    return keys


def trial_name(varied: Flat, seed: int) -> str:
    """Return a trial's name: its settings and its seed."""
    parts = [f"{key.rpartition('.')[2]}={_short(value)}" for key, value in varied.items() if key != "seed"]
    return " ".join([*parts, f"seed={seed}"])


def _values(keys: Iterable[str], configurations: Sequence[Flat]) -> set[tuple[Any, ...]]:
    chosen = [key for key in keys if key != "seed"]
    return {tuple(each[key] for key in chosen) for each in configurations}


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(_short(each) for each in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
