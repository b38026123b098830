"""How settings are called: one way for trial names, tables, charts and MLflow's run names.

A setting's label is made of the parameters that tell it from the study's others, as the paper writes them:
``NMS_reg=0.85 stages=3``. A trial's name is its setting's label and its seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["distinguishing_keys", "label", "labels", "parameter_name", "run_name", "trial_name", "value_text"]

PAPER_NAMES = {"nms_cls": "NMS_cls", "nms_reg": "NMS_reg", "nms_test": "NMS_test", "lambda_reg": "λ"}
# A named variant or schedule brings several settings; these say best which one it was.
MOST_TELLING = ("detector.stages", "training.epochs", "data.train_short_sides")

Flat = Mapping[str, Any]


def parameter_name(key: str) -> str:
    """A dotted key as a reader of the paper knows it.

    >>> parameter_name("detector.nms_reg")
    'NMS_reg'
    """
    leaf = key.rpartition(".")[2]
    return PAPER_NAMES.get(leaf, leaf)


def value_text(value: Any) -> str:
    """A setting's value in a word."""
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(value_text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def label(varied: Flat) -> str:
    """The label of a setting; a word speaks for itself, a number is named.

    >>> label({"detector.variant": "decoupled", "detector.nms_reg": 0.85})
    'decoupled NMS_reg=0.85'
    """
    parts = [
        value if isinstance(value, str) else f"{parameter_name(key)}={value_text(value)}"
        for key, value in varied.items()
        if key != "seed"
    ]
    return " ".join(parts) or "the one setting"


def trial_name(varied: Flat, seed: int) -> str:
    """A trial's name: the label of its setting, and its seed."""
    own = {key: value for key, value in varied.items() if key != "seed"}
    return f"{label(own)} seed={seed}" if own else f"seed={seed}"


def run_name(varied: Flat, seed: int) -> str:
    """A trial's name in MLflow, whose pages show some twenty letters of it.

    >>> run_name({"detector.nms_reg": 0.85, "detector.nms_cls": 0.75}, 1)
    's1 reg=0.85 cls=0.75'
    """
    own = {key: value for key, value in varied.items() if key != "seed"}
    return f"s{seed} {label(own).replace('NMS_', '')}" if own else f"seed={seed}"


def labels(configurations: Sequence[Flat], preferred: Sequence[str]) -> list[str]:
    """Labels that tell these configurations apart, shorter than those that tell all of a study's apart.

    Args:
        configurations: every setting of each.
        preferred: keys to tell them apart by, as far as that goes.
    """
    differing = [key for key in preferred if _count([key], configurations) > 1]
    keys = distinguishing_keys(differing, configurations) if len(configurations) > 1 else []
    return [label({key: flat[key] for key in keys}) for flat in configurations]


def distinguishing_keys(named: Sequence[str], configurations: Sequence[Flat]) -> list[str]:
    """The keys that tell configurations apart: of ``named`` those that vary, and whatever else it takes.

    >>> flats = [{"variant": "decoupled", "stages": 1}, {"variant": "decoupled", "stages": 3}]
    >>> distinguishing_keys(["variant"], flats)
    ['variant', 'stages']

    Args:
        named: the keys that the study names itself.
        configurations: every setting of each.
    """
    varying = [key for key in named if _count([key], configurations) > 1]
    keys = varying or list(named)
    everything = list(configurations[0]) if configurations else []
    most = _count(everything, configurations)
    for key in dict.fromkeys([*(key for key in MOST_TELLING if key in everything), *everything]):
        distinct = _count(keys, configurations)
        if distinct == most:
            break
        if key != "seed" and _count([*keys, key], configurations) > distinct:
            keys.append(key)
    return keys


def _count(keys: Iterable[str], configurations: Sequence[Flat]) -> int:
    """How many configurations these keys tell apart; the seed makes none another setting."""
    chosen = [key for key in keys if key != "seed"]
    return len({tuple(value_text(flat[key]) for key in chosen) for flat in configurations})
