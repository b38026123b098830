"""What a launch prints at its end."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from studies.definition.plan import Plan, Trial
from studies.record.results import print_means
from studies.record.results import print_results as print_table

__all__ = ["print_results"]


def print_results(console: Console, plan: Plan, trials: Sequence[Trial], confirming: Sequence[Trial]) -> None:
    """Print the results."""
    print_table(console, plan, trials)
    if confirming:
        print_means(console, plan, confirming)
