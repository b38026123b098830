"""Which trials of a study were compared before, while more were being added.

Whoever adds seeds until something is significant finds it too often: among equal settings, at 5 %, in some
8 % of studies that are looked at twice, 11 % at three looks and 18 % at nine (simulated with 2 to 8 settings
and a seed or a few added at a time). Launches that end as planned choose nothing, however often they were
interrupted. So each launch notes what it compared, and later reports say so where it matters.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drcnn.files import put_aside
from drcnn.sealed import read_sealed, write_sealed

__all__ = ["LOOKS", "Look", "note", "read_looks", "warning"]

logger = logging.getLogger(__name__)

LOOKS = "looks.json"


@dataclass(frozen=True)
class Look:
    """What a report compared.

    Attributes:
        trials: ids of those with detections to compare.
        planned: how many trials the compared settings have, with those that are left.
    """

    trials: frozenset[str]
    planned: int


def read_looks(folder: Path) -> list[Look]:
    """The looks that a study's launches have noted; none if the file is missing or damaged."""
    try:
        return [Look(frozenset(ids), int(planned)) for ids, planned in read_sealed(folder / LOOKS)["looks"]]
    except (OSError, KeyError, TypeError, ValueError):
        return []


def note(folder: Path, look: Look) -> None:
    """Add a look to those of a study, unless it is among them."""
    looks, path = read_looks(folder), folder / LOOKS
    if look in looks:
        return
    if not looks and path.exists():
        logger.warning("%s is damaged, kept as %s: earlier looks are forgotten", path, put_aside(path).name)
    write_sealed(path, {"looks": [[sorted(each.trials), each.planned] for each in [*looks, look]]})


def warning(earlier: Sequence[Look], now: Look, *, is_complete: bool) -> str:
    """Say that the figures may have decided when the study ended; empty if they cannot have.

    Args:
        earlier: the looks before, that at the same trials among them.
        now: what is compared now.
        is_complete: whether no trial is left.
    """
    before = [look for look in earlier if look.trials < now.trials]
    was_fixed = is_complete and all(look.planned == now.planned for look in before)
    if not before or was_fixed:
        return ""
    looks = len({look.trials for look in before})
    times = "once" if looks == 1 else f"{looks} times"
    return (
        f"The settings were compared {times} before, with fewer trials. If that decided whether trials were "
        "added, significant differences are found more often than p says: in some 8 % of studies of equal "
        "settings that are looked at twice, and in 18 % at nine looks, instead of 5 %."
    )
