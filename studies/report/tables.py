"""The report's parts on results: figures beside the paper's, comparisons, agreement, curves, searches."""

from __future__ import annotations

import math
from collections.abc import Sequence

from drcnn.engine.record import LATENCY
from studies.analysis.claims import Effect, Joined, agreement_claim, agreements, contrasts, effects
from studies.analysis.replicates import Replicate, Setting, setting_labels
from studies.analysis.statistics import Comparison, mean_interval
from studies.definition.labels import parameter_name, value_text
from studies.definition.paper_tables import FIGURES, PaperRow
from studies.definition.study import SearchStudy
from studies.report import figures, search_figures
from studies.report.document import Block, Cell, Heading, Table, Text

# Columns of the paper that are figures of quality.
USUAL = {"AP", "AP50", "AP60", "AP70", "AP80", "AP90"}
QUALITY = [name for name in FIGURES if name.startswith("AP")]
# Beside a p-value that allows for all comparisons of its table.
ALONE = "95 % interval, uncorrected"

__all__ = ["comparison_table", "curves", "front_claim", "numbers", "paper_section", "search_section"]


def numbers(settings: Sequence[Setting], joined: Sequence[Joined], best: str | None) -> list[Block]:
    """Each setting's figures, with the paper's where it has the setting."""
    rows: dict[str, PaperRow] = {}
    for table in joined:
        for row, setting in table.rows:
            known = rows.get(setting.name)
            # Where several are of the same setting, that which says most about it.
            if known is None or len(row.settings) > len(known.settings):
                rows[setting.name] = row
    theirs = {metric for row in rows.values() for metric in row.figures}
    metrics = [metric for metric in QUALITY if metric in (theirs or USUAL)]
    is_replicated = any(len(setting.values("val/AP")) > 1 for setting in settings)
    is_timed = "seconds_per_image" in theirs or any(setting.values(LATENCY) for setting in settings)
    lines: list[tuple[Cell, ...]] = []
    for setting in settings:
        its = rows.get(setting.name)
        cells = [_figure(setting, metric, its) for metric in metrics]
        if is_timed:
            cells.append(_seconds(setting, its))
        name = (setting.name, its.table) if its else setting.name
        lines.append((name, str(len(setting.values("val/AP"))), *cells))
    spread = " ± half of the 95 % interval over seeds" if is_replicated else ""
    beside = "; with it the paper's figure, and ours minus the paper's" if rows else ""
    caption = f"AP × 100 on the test images after the last epoch{spread}{beside}."
    columns = ["setting", "seeds", *metrics]
    if is_timed:
        columns.append("s/image")
        on = " (the paper's on its TITAN X)" if "seconds_per_image" in theirs else ""
        caption += f" s/image: seconds of inference for an image{on}; – where none were measured."
    strong = frozenset(place for place, setting in enumerate(settings) if setting.name == best)
    return [Table(caption, tuple(columns), tuple(lines), strong=strong)]


def _figure(setting: Setting, metric: str, row: PaperRow | None) -> Cell:
    values = setting.values(f"val/{metric}")
    theirs = row.figures.get(metric) if row else None
    if not values:
        return ("–", f"paper {theirs:.1f}") if theirs is not None else "–"
    found = mean_interval(values)
    ours = f"{100 * found.mean:.1f}"
    if not math.isnan(found.low):
        ours += f" ± {100 * (found.high - found.mean):.1f}"
    return ours if theirs is None else (ours, f"{theirs:.1f}, {100 * found.mean - theirs:+.1f}")


def _seconds(setting: Setting, row: PaperRow | None) -> Cell:
    """No difference: two machines are compared by how time changes from setting to setting."""
    milliseconds = setting.mean(LATENCY)
    ours = "–" if math.isnan(milliseconds) else f"{milliseconds / 1000:.3f}"
    theirs = row.figures.get("seconds_per_image") if row else None
    return ours if theirs is None else (ours, f"paper {theirs:.3f}")


def comparison_table(comparisons: Sequence[Comparison], *, of_best: bool) -> Table:
    """One row a comparison; ``of_best`` if the same setting is compared with each other one."""
    first = comparisons[0]
    if of_best:
        caption = (
            f"{first.name}, the highest, against each other setting: difference of {first.metric} × 100. "
            f"As it was chosen by its figure, p is corrected for all {first.comparisons} pairs of settings."
        )
    else:
        caption = f"Each setting against {first.reference}: difference of {first.metric} × 100."
    rows = []
    for found in comparisons:
        if found.is_significant:
            verdict = "better" if found.difference.value > 0 else "worse"
        else:
            verdict = "no difference shown"
        rows.append((found.reference if of_best else found.name, *_difference(found), verdict))
    columns = ("setting", "difference", ALONE, "p, corrected", "verdict")
    return Table(caption, columns, tuple(rows), words=("verdict",))


def _difference(found: Comparison | Effect) -> tuple[str, str, str]:
    ours = found.difference if isinstance(found, Comparison) else found.ours
    chance = "< 0.001" if found.p_holm < 0.001 else f"{found.p_holm:.3f}"
    interval = "–" if math.isnan(ours.low) else f"{100 * ours.low:+.1f} to {100 * ours.high:+.1f}"
    return f"{100 * ours.value:+.1f}", interval, chance


def paper_section(joined: Joined) -> list[Block]:
    """How far one table of the paper is confirmed: its best row, its ranking, its direction of effects."""
    blocks: list[Block] = [Heading(f"The paper's {joined.table}", 3)]
    if joined.note:
        blocks.append(Text(joined.note))
    blocks.append(Text(_best_row(joined)))
    found = agreements(joined, QUALITY)
    if found:
        ranked = sum(bool(setting.values("val/AP")) for _, setting in joined.rows)
        rows = (
            ("τ", *(f"{each.tau:+.2f}" for each in found.values())),
            ("p, corrected" if len(found) > 1 else "p", *(f"{each.p:.3f}" for each in found.values())),
        )
        caption = (
            "Do the settings come in the paper's order? Kendall's τ is 1 for the same order, -1 for the "
            f"reverse. {agreement_claim(found, ranked)}"
        )
        blocks.append(Table(caption, ("order", *found), rows))
    for changed in contrasts(joined):
        caption = (
            f"From {changed[0].baseline} to {changed[0].name}, the paper's best: change × 100 of each metric."
        )
        blocks.append(_effect_table(caption, changed, "metric", [effect.metric for effect in changed]))
    panels = {metric: made for metric in ("AP", "AP90") if (made := effects(joined, metric))}
    if len(panels.get("AP", ())) > 1:
        blocks.append(figures.changes(joined.table, panels))
    return blocks


def _effect_table(caption: str, found: Sequence[Effect], column: str, names: Sequence[str]) -> Table:
    rows = tuple(
        (name, f"{effect.paper:+.1f}", *_difference(effect), effect.verdict)
        for name, effect in zip(names, found, strict=True)
    )
    columns = (column, "paper", "here", ALONE, "p, corrected", "the paper's effect")
    return Table(caption, columns, rows, words=("the paper's effect",))


def _best_row(joined: Joined) -> str:
    names = dict(
        zip((id(s) for _, s in joined.rows), setting_labels([s for _, s in joined.rows]), strict=True)
    )
    known = [setting for _, setting in joined.rows if setting.values("val/AP")]
    figure = joined.best[0][0].figures["AP"]
    best = [setting for _, setting in joined.best]
    called = " and ".join(names[id(setting)] for setting in best)
    if len(best) == 1:
        said = f"The paper's best of these settings is {called} (AP {figure:.1f})."
    else:
        said = f"The paper's best of these settings are {called} (AP {figure:.1f} each)."
    ordered = sorted(known, key=lambda setting: -setting.mean("val/AP"))
    places = [ordered.index(setting) + 1 for setting in best if setting in known]
    if not places:
        return f"{said} No trial of {'it' if len(best) == 1 else 'them'} has finished here."
    top = ordered[0]
    if top in best:
        which = "It" if len(best) == 1 else names[id(top)]
        return f"{said} {which} has the highest AP here as well, of {len(known)}."
    first = ordered[min(places) - 1]
    which = "it" if len(best) == 1 else f"the higher of them, {names[id(first)]},"
    return (
        f"{said} Here {which} is number {min(places)} of {len(known)} (AP {100 * first.mean('val/AP'):.1f}); "
        f"the highest is {names[id(top)]} ({100 * top.mean('val/AP'):.1f})."
    )


def curves(settings: Sequence[Setting], reference: Setting, metric_key: str) -> list[Block]:
    """AP over IoU thresholds and by epoch."""
    blocks: list[Block] = []
    if any(setting.measured for setting in settings):
        base = reference if reference.measured else next(each for each in settings if each.measured)
        blocks.append(figures.ap_over_iou(settings, base))
    histories = [run.record.history for setting in settings for run in setting.runs]
    known = [sum(not math.isnan(e.get(metric_key, math.nan)) for e in history) for history in histories]
    if max(known, default=0) > 1:
        blocks.append(figures.ap_by_epoch(settings, metric_key))
    return blocks or [Text("No detections and no epochs are there to draw yet.")]


def search_section(
    study: SearchStudy, runs: Sequence[Replicate], confirmed: Sequence[Setting]
) -> list[Block]:
    """How a search went, which settings mattered, the front of two objectives, and the confirmation.

    Args:
        study: the search.
        runs: its own, in its order, without those of the confirmation.
        confirmed: settings with the runs of the confirmation only.
    """
    blocks: list[Block] = [_search_text(study, runs)]
    finished = [run for run in runs if run.is_finished and study.metric in run.record.metrics]
    finished = [run for run in finished if not math.isnan(run.record.metrics[study.metric])]
    if not finished:
        return blocks
    blocks.append(search_figures.history(runs, study.metric))
    keys = [key for key in runs[0].trial.varied if key != "seed"]
    moving = [key for key in keys if len({value_text(run.trial.varied[key]) for run in finished}) > 1]
    if len(finished) > 1 and moving:
        blocks.append(search_figures.parallel(finished, moving, study.metric))
    shares = search_figures.importances(finished, keys, study.metric)
    if shares:
        blocks.append(search_figures.importance_chart(shares, len(finished)))
    else:
        blocks.append(Text("Too few trials finished to say which setting matters."))
    if study.minimise and (kept := search_figures.front(runs, study.metric, study.minimise)):
        blocks += [
            Heading("The front", 3),
            search_figures.front_chart(runs, kept, study.metric, study.minimise),
        ]
        blocks.append(_front_table(kept, study.metric, study.minimise))
    if study.confirm:
        blocks += [Heading("Confirmation", 3), *_confirmation(study, confirmed)]
    return blocks


def front_claim(runs: Sequence[Replicate], metric_key: str, cost_key: str) -> str:
    """Say which of a search's trials no other one beats in both objectives; empty before one has both."""
    kept = search_figures.front(runs, metric_key, cost_key)
    if not kept:
        return ""
    metric = metric_key.removeprefix("val/")
    fast, good = (
        f"{run.trial.name} ({metric} {100 * run.record.metrics[metric_key]:.1f} at "
        f"{run.record.metrics[cost_key]:.1f} ms an image)"
        for run in (kept[0], kept[-1])
    )
    finished = sum(run.is_finished for run in runs)
    if len(kept) == 1:
        return f"Of {finished} finished trials **one is the fastest and has the highest {metric}**: {fast}."
    return (
        f"**The front has {len(kept)} of {finished} finished trials**: no other is both faster and better "
        f"than one of them. It goes from {fast} to {good}. Each is a single run: another seed may move it."
    )


def _search_text(study: SearchStudy, runs: Sequence[Replicate]) -> Text:
    cut = sum(run.record.is_pruned for run in runs)
    names = ", ".join(parameter_name(key) for key in study.space)
    ended = f"; {cut} were cut early because others were better at the same epoch" if cut else ""
    return Text(
        f"Optuna's TPE chose {len(runs)} of {study.trials} trials over {names}{ended}. "
        "The best of many single runs was also lucky: its figure here is too high to be expected again."
    )


def _front_table(kept: Sequence[Replicate], metric_key: str, cost_key: str) -> Table:
    rows = tuple(
        (
            run.trial.name,
            f"{run.record.metrics[cost_key]:.1f}",
            f"{100 * run.record.metrics[metric_key]:.1f}",
        )
        for run in kept
    )
    return Table(
        "Trials that no other one beats in both.",
        ("trial", "ms an image", f"{metric_key.removeprefix('val/')} × 100"),
        rows,
    )


def _confirmation(study: SearchStudy, confirmed: Sequence[Setting]) -> list[Block]:
    assert study.confirm is not None
    said = (
        f"The {study.confirm.top} best settings and the one chosen before the search are trained again with "
        "seeds that the search did not use. "
    )
    if any(setting.values(study.metric) for setting in confirmed):
        return [
            Text(
                f"{said}Their figures and comparisons are those under Results; the search's are not in them."
            )
        ]
    return [Text(f"{said}None of these trials has finished yet: the figures under Results are the search's.")]
