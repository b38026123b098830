"""The report's parts on results: figures beside the paper's, comparisons, agreement, curves, searches."""

from __future__ import annotations

import math
from collections.abc import Sequence

from studies import figures, search_figures
from studies.claims import Effect, Joined, agreement, contrast, effects
from studies.document import Block, Cell, Heading, Table, Text
from studies.evidence import Run, Setting, display_name, names_of, short
from studies.paper_tables import FIGURES, PaperRow
from studies.statistics import Comparison, mean_interval
from studies.study import SearchStudy

# Columns of the paper that are figures of quality.
USUAL = {"AP", "AP50", "AP60", "AP70", "AP80", "AP90"}
QUALITY = [name for name in FIGURES if name.startswith("AP")]

__all__ = ["comparison_table", "curves", "numbers", "paper_section", "search_section"]


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
    lines: list[tuple[Cell, ...]] = []
    for setting in settings:
        its = rows.get(setting.name)
        cells = [_figure(setting, metric, its) for metric in metrics]
        name = (setting.name, its.table) if its else setting.name
        lines.append((name, str(len(setting.values("val/AP"))), *cells))
    spread = " ± half of the 95 % interval over seeds" if is_replicated else ""
    beside = "; with it the paper's figure, and ours minus the paper's" if rows else ""
    caption = f"AP × 100 on the test images after the last epoch{spread}{beside}."
    strong = frozenset(place for place, setting in enumerate(settings) if setting.name == best)
    return [Table(caption, ("setting", "seeds", *metrics), tuple(lines), strong=strong)]


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


def comparison_table(comparisons: Sequence[Comparison], *, of_best: bool) -> Table:
    """One row a comparison; ``of_best`` if the same setting is compared with each other one."""
    first = comparisons[0]
    if of_best:
        caption = (
            f"{first.name}, the highest, against each other setting: difference of {first.metric} × 100."
        )
    else:
        caption = f"Each setting against {first.reference}: difference of {first.metric} × 100."
    rows = []
    for found in comparisons:
        if found.shown:
            verdict = "better" if found.difference.value > 0 else "worse"
        else:
            verdict = "no difference shown"
        rows.append((found.reference if of_best else found.name, *_difference(found), verdict))
    columns = ("setting", "difference", "95 % interval", "p, corrected", "verdict")
    return Table(caption, columns, tuple(rows), words=("verdict",))


def _difference(found: Comparison | Effect) -> tuple[str, str, str]:
    ours = found.difference if isinstance(found, Comparison) else found.ours
    chance = "< 0.001" if found.p_holm < 0.001 else f"{found.p_holm:.3f}"
    return f"{100 * ours.value:+.1f}", f"{100 * ours.low:+.1f} to {100 * ours.high:+.1f}", chance


def paper_section(joined: Joined) -> list[Block]:
    """How far one table of the paper is confirmed: its best row, its ranking, its direction of effects."""
    blocks: list[Block] = [Heading(f"The paper's {joined.table}", 3)]
    if joined.note:
        blocks.append(Text(joined.note))
    blocks.append(Text(_best_row(joined)))
    found = {metric: agreed for metric in QUALITY if (agreed := agreement(joined, metric))}
    if found:
        shown = [metric for metric, each in found.items() if each.p < 0.05]
        verdict = f"is shown for {', '.join(shown)}" if shown else "is shown for none"
        rows = (
            ("τ", *(f"{each.tau:+.2f}" for each in found.values())),
            ("p", *(f"{each.p:.2f}" for each in found.values())),
        )
        caption = (
            "Do the settings come in the paper's order? Kendall's τ is 1 for the same order, -1 for the "
            f"reverse. An agreement beyond chance (p below 0.05) {verdict}."
        )
        blocks.append(Table(caption, ("order", *found), rows))
    changed = contrast(joined)
    if changed:
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
    columns = (column, "paper", "here", "95 % interval", "p, corrected", "the paper's effect")
    return Table(caption, columns, rows, words=("the paper's effect",))


def _best_row(joined: Joined) -> str:
    row, theirs = joined.best()
    names = dict(zip((id(s) for _, s in joined.rows), names_of([s for _, s in joined.rows]), strict=True))
    known = [setting for _, setting in joined.rows if setting.values("val/AP")]
    said = f"The paper's best of these settings is {names[id(theirs)]} (AP {row.figures['AP']:.1f})."
    if theirs not in known:
        return f"{said} No trial of it has finished here."
    ordered = sorted(known, key=lambda setting: -setting.mean("val/AP"))
    place = ordered.index(theirs) + 1
    if place == 1:
        return f"{said} It has the highest AP here as well, of {len(known)}."
    return (
        f"{said} Here it is number {place} of {len(known)} (AP {100 * theirs.mean('val/AP'):.1f}); "
        f"the highest is {names[id(ordered[0])]} ({100 * ordered[0].mean('val/AP'):.1f})."
    )


def curves(settings: Sequence[Setting], reference: Setting, metric_key: str) -> list[Block]:
    """AP over IoU thresholds and by epoch."""
    blocks: list[Block] = []
    if any(setting.measured for setting in settings):
        base = reference if reference.measured else next(each for each in settings if each.measured)
        blocks.append(figures.ap_over_iou(settings, base))
    histories = [run.outcome.history for setting in settings for run in setting.runs]
    known = [sum(not math.isnan(e.get(metric_key, math.nan)) for e in history) for history in histories]
    if max(known, default=0) > 1:
        blocks.append(figures.ap_by_epoch(settings, metric_key))
    return blocks or [Text("No detections and no epochs are there to draw yet.")]


def search_section(study: SearchStudy, runs: Sequence[Run], confirmed: Sequence[Setting]) -> list[Block]:
    """How a search went, which settings mattered, the front of two objectives, and the confirmation.

    Args:
        study: the search.
        runs: its own, in its order, without those of the confirmation.
        confirmed: settings with the runs of the confirmation only.
    """
    blocks: list[Block] = [_search_text(study, runs)]
    finished = [run for run in runs if run.is_finished and study.metric in run.outcome.metrics]
    finished = [run for run in finished if not math.isnan(run.outcome.metrics[study.metric])]
    if not finished:
        return blocks
    blocks.append(search_figures.history(runs, study.metric))
    keys = [key for key in runs[0].trial.varied if key != "seed"]
    moving = [key for key in keys if len({short(run.trial.varied[key]) for run in finished}) > 1]
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


def _search_text(study: SearchStudy, runs: Sequence[Run]) -> Text:
    cut = sum(run.outcome.status == "pruned" for run in runs)
    names = ", ".join(display_name(key) for key in study.space)
    ended = f"; {cut} were cut early because others were better at the same epoch" if cut else ""
    return Text(
        f"Optuna's TPE chose {len(runs)} of {study.trials} trials over {names}{ended}. "
        "The best of many single runs was also lucky: its figure here is too high to be expected again."
    )


def _front_table(kept: Sequence[Run], metric_key: str, cost_key: str) -> Table:
    rows = tuple(
        (
            run.trial.name,
            f"{run.outcome.metrics[cost_key]:.1f}",
            f"{100 * run.outcome.metrics[metric_key]:.1f}",
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
