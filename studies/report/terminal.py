"""What a launch prints at its end: the tables and sentences of the report in short, and its two first."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markdown import Markdown

from studies.analysis import claims
from studies.definition.plan import Plan, Trial
from studies.definition.study import SearchStudy
from studies.report.blocks import escape
from studies.report.facts import ReportFacts, gather_facts
from studies.report.rendering import render_markdown
from studies.report.result_tables import best_trials_table, settings_table, trials_table

__all__ = ["print_answer", "print_results"]


def print_results(
    console: Console, plan: Plan, trials: Sequence[Trial], confirming: Sequence[Trial] = ()
) -> None:
    """Print every trial's last figures, the means over seeds, and what a search's confirmation shows.

    Args:
        console: where to print.
        plan: the study.
        trials: of the study, without those that confirm a search.
        confirming: those that do.
    """
    facts = gather_facts(plan, trials)
    console.print(trials_table(facts.settings, facts.tables).to_rich())
    if any(len(setting.replicates) > 1 for setting in facts.settings):
        console.print(settings_table(facts.settings, facts.tables, is_short=True).to_rich())
    if facts.tables:
        _print_words(console, "paper_notes.md.j2", facts)
    if isinstance(plan.study, SearchStudy) and facts.best_trials:
        console.print(best_trials_table(facts).to_rich())
    if confirming:
        facts = gather_facts(plan, [*trials, *confirming])
        console.print("Confirmed with seeds that the search did not use:", highlight=False)
        console.print(settings_table(facts.confirming, facts.tables, is_short=True).to_rich())
        _print_words(console, "confirmation.md.j2", facts)


def print_answer(console: Console, title: str, sentences: Sequence[str]) -> None:
    """Print what a study shows, below its title: ``studies.report.answer``'s sentences, if there are any."""
    if sentences:
        console.print(Markdown("\n\n".join((f"**{escape(title)}**", *sentences))))


def _print_words(console: Console, template: str, facts: ReportFacts) -> None:
    console.print(Markdown(render_markdown(template, facts=facts, claims=claims)))
