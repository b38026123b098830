"""What a launch prints: before it, what the study can show; at its end the report in short, and what next."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.markdown import Markdown

from drcnn.data.annotations import Annotations
from drcnn.engine.record import read_record
from drcnn.plain_text import printable
from drcnn.report.blocks import Table, escape
from drcnn.sealed import read_sealed
from drcnn.trained_model import PUBLISHED
from studies.analysis.power import known_spread, measured_spread, sentence
from studies.analysis.replicates import group_by_setting
from studies.definition.metrics import points
from studies.definition.plan import Plan, Trial
from studies.record.launch_request import as_typed
from studies.record.tracking.addresses import ui_command
from studies.report.facts import ReportFacts
from studies.report.rendering import render_markdown
from studies.report.result_tables import best_trials_table, settings_table, trials_table

__all__ = ["next_steps", "outcome_lines", "print_answer", "print_power", "print_results"]


def print_results(console: Console, facts: ReportFacts) -> None:
    """Print every trial's last figures, the means over seeds, and those of a search's confirmation."""
    if facts.is_search:
        _print_table(console, trials_table(facts.searched_settings, [], "val"))
    else:
        _print_table(console, trials_table(facts.settings, facts.tables, facts.shown))
    if not facts.is_search and any(len(setting.replicates) > 1 for setting in facts.settings):
        _print_table(console, settings_table(facts.settings, facts.tables, facts.shown, is_short=True))
    if facts.tables:
        console.print(Markdown(render_markdown("paper_notes.md.j2", facts=facts)))
    if facts.is_search and facts.best_trials:
        _print_table(console, best_trials_table(facts))
    if facts.confirming:
        console.print("Confirmed with seeds that the search did not use:", highlight=False)
        table = settings_table(facts.confirming, facts.tables, facts.judged_by, is_short=True)
        _print_table(console, table)


def print_power(plan: Plan, trials: Sequence[Trial], planned: Sequence[Trial]) -> None:
    """Say the smallest difference that a study can show.

    Args:
        plan: the study.
        trials: all whose spread tells, if they have finished.
        planned: those that will have finished.
    """
    counts = Counter(trial.setting_key for trial in planned)
    settings = {trial.setting_key for trial in trials}
    if len(settings) < 2:
        return
    if len(counts) < len(settings):
        print(f"{len(settings) - len(counts)} of {len(settings)} settings would have no trial to compare.")
        return
    metric = plan.study.metric
    images = len(Annotations.load(trials[0].data.judged_table))
    finished = [trial for trial in trials if read_record(trial.folder).is_finished]
    spread = measured_spread([setting.resampled for setting in group_by_setting(finished)], metric)
    if spread is None and metric == "AP":
        spread = known_spread(plan.profile, plan.base.data.source, plan.name)
    print(sentence(spread, min(counts.values()), images, metric, len(settings) - 1))
    if any(trial.is_evaluation for trial in trials):
        print("Settings of the same detectors are compared detector by detector, which shows smaller ones.")


def outcome_lines(new: Sequence[Trial], reused: Sequence[Trial], failed: Sequence[Trial]) -> list[str]:
    """How many trials a launch trained, evaluated, found done, and lost; why it lost each of those; and what
    was not as usual with those that it trained.

    Args:
        new: those that it completed.
        reused: those that were complete before.
        failed: those that it did not complete.
    """
    evaluated = sum(trial.is_evaluation for trial in new)
    pruned = sum(read_record(trial.folder).is_pruned for trial in (*new, *reused))
    counts = [f"{len(new) - evaluated} trained"]
    counts += [f"{evaluated} evaluated"] if evaluated else []
    counts += [f"{len(reused)} reused", f"{len(failed)} failed" + (f" ({pruned} pruned)" if pruned else "")]
    reasons = [f"  {trial.name}: {read_record(trial.folder).error or 'did not run'}" for trial in failed]
    notes = [f"  {trial.name}: {note}" for trial in new for note in read_record(trial.folder).notes]
    return [", ".join(counts), *map(printable, (*reasons, *notes))]


def print_answer(console: Console, title: str, sentences: Sequence[str]) -> None:
    """Print what a study shows, below its title: ``studies.report.answer``'s sentences, if there are any."""
    if sentences:
        console.print(Markdown("\n\n".join((f"**{escape(title)}**", *sentences))))


def next_steps(plan: Plan, tracking_uri: str, trials_link: str, report_line: str) -> list[str]:
    """The last lines of a launch: where its results are, and the commands that go on from there.

    Args:
        plan: the study.
        tracking_uri: of MLflow's record.
        trials_link: the address of the page that lists the trials.
        report_line: where the report is, or why there is none.
    """
    table = plan.folder / "results.parquet"
    command = ui_command(tracking_uri)
    is_address = trials_link.startswith(command)
    lines = [f"Table: {table}"] if table.exists() else []
    lines += [report_line]
    lines += (
        [f"MLflow: {trials_link}"] if is_address else [f"MLflow: {command}", f"  then open {trials_link}"]
    )
    if (plan.folder / PUBLISHED).exists():
        model, found = (shlex.quote(as_typed(path)) for path in (plan.folder, plan.folder / "found"))
        published = read_sealed(plan.folder / PUBLISHED)
        mean = f"mean of {published['seeds']} seeds, " if published["seeds"] > 1 else ""
        lines.append(f"Published, of the highest {plan.study.chosen_by} ({mean}{points(published['mean'])}):")
        lines.append(f"  {published['name']}")
        lines.append(f"Detect: drcnn predict {model} IMAGES --output {found}")
    elif table.exists():
        trials = shlex.quote(as_typed(plan.output / "trials"))
        lines.append(
            f"No detector is published: no finished trial has {plan.study.chosen_by} to choose it by, and "
            f"test images are not for choosing. drcnn predict {trials}/ID IMAGES takes any finished one"
        )
    return lines


def _print_table(console: Console, table: Table) -> None:
    console.print(table.fitted(console.width).to_rich())
