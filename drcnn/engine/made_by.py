"""With what a trial was made, beside the settings of its identity: to be told where trials differ in it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from drcnn.engine.run_options import RunOptions
from drcnn.engine.workers import world_size

__all__ = ["UNKNOWN", "made_by", "merged"]

# The commit in the record of a trial that other launches, before or after, trained with a known one.
UNKNOWN = "unknown"


def made_by(options: RunOptions) -> dict[str, str]:
    """Return torch's version, the device, threads, workers, and the commit if it is known."""
    is_gpu = options.device == "cuda"
    made = {
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name() if is_gpu else "CPU",
        "workers": str(world_size()),
        "commit": options.commit,
    }
    if not is_gpu:
        made["threads"] = str(torch.get_num_threads())
    return {name: value for name, value in made.items() if value}


def merged(earlier: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Return both, for a trial that another launch began.

    >>> merged({"torch": "2.11", "workers": "1"}, {"torch": "2.15", "workers": "1"})
    {'torch': '2.11, then 2.15', 'workers': '1'}
    >>> merged({"torch": "2.11", "commit": "a"}, {"torch": "2.11"})
    {'commit': 'a, then unknown', 'torch': '2.11'}
    """
    if earlier and "commit" in {**earlier, **now}:
        earlier, now = ({"commit": UNKNOWN, **each} for each in (earlier, now))
    both = {**earlier, **now}
    for name, value in now.items():
        before = earlier.get(name, value)
        if before.rpartition(", then ")[2] != value:
            both[name] = f"{before}, then {value}"
        else:
            both[name] = before
    return both
