"""The report of a study: ``report.md``, ``report.html`` and figures, for readers who have seen nothing else.

It is written from what the trials' folders hold, finished or not, and can be written again at any time::

    python studies/run_study.py report nms_sweep
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from drcnn.files import replacing, write_text
from studies.analysis.claims import against, best_claim, contrasts, effects_claim, seeds_claim
from studies.analysis.replicates import Replicate, Setting, load_annotations
from studies.definition.labels import parameter_name, value_text
from studies.definition.plan import Plan, Trial
from studies.definition.study import SearchStudy
from studies.report import context as report_context
from studies.report import cost as report_cost
from studies.report import tables as report_results
from studies.report.deviations import deviations
from studies.report.document import Block, Document, Heading, Text
from studies.report.findings import Findings, confirmed
from studies.report.page import page
from studies.report.samples import LEAST_SCORE, MOST_IMAGES, samples

__all__ = ["write_report"]


def write_report(plan: Plan, trials: Sequence[Trial], folder: Path) -> list[Path]:
    """Write the report of a study's trials, whatever state they are in.

    Args:
        plan: the study.
        trials: all of it, with those of a search's confirmation.
        folder: where to write.

    Returns:
        The files written; the report's own first.
    """
    document = _document(Findings.of(plan, trials))
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "report.md", folder / "report.html"]
    write_text(files[0], document.markdown())
    write_text(files[1], page(document))
    for picture in document.pictures():
        files.append(folder / picture.file)
        with replacing(files[-1]) as draft:
            draft.write_bytes(picture.light)
    return files


def _document(found: Findings) -> Document:
    plan = found.plan
    blocks: list[Block] = [Heading("Summary"), *_summary(found)]
    blocks += [Heading("How to read this"), *report_context.how_to_read()]
    if found.settings:
        blocks += [Heading("Results"), *_results(found)]
        blocks.append(Heading("Curves"))
        blocks += report_results.curves(found.judged, found.reference or found.judged[0], plan.study.metric)
        if isinstance(plan.study, SearchStudy):
            again = confirmed(plan, found.settings)
            blocks.append(Heading("The search"))
            blocks += report_results.search_section(plan.study, found.searched, again)
        blocks += [Heading("Sample detections"), *_samples(found)]
        blocks += [Heading("Cost"), *report_cost.cost(found.runs, found.trainings)]
        data = found.joined[0].data if found.joined else ""
        blocks += [Heading("What differs from the paper"), *deviations(plan, found.settings[0].first, data)]
        blocks += [Heading("Where this is from"), *report_context.origin(plan, found.settings)]
    return Document(plan.study.title, f"Report of the study {plan.name}: Decoupled R-CNN", tuple(blocks))


def _summary(found: Findings) -> list[Block]:
    if not found.settings:
        return [Text("No trial has begun.", lead=True)]
    blocks: list[Block] = [Text(sentence) for sentence in (_what(found), _states(found.runs))]
    best = found.best
    if best is None:
        return [*blocks, Text("No trial has finished: nothing can be said yet.", lead=True)]
    front = _front(found)
    if front:
        blocks.append(Text(front, lead=True))
    if found.ranked:
        said = f"{best_claim(found.ranked, found.judged)} {found.ranked[0].sentence}"
        blocks.append(Text(said, lead=not front))
    else:
        figure = 100 * best.mean(found.plan.study.metric)
        name = found.plan.study.metric.removeprefix("val/")
        why = (
            "only one setting has finished"
            if sum(bool(setting.values(found.plan.study.metric)) for setting in found.judged) == 1
            else "the detections or the test images are not there to compare"
        )
        said = f"{best.name} has the highest {name}, {figure:.1f}; **no winner can be named**: {why}."
        blocks.append(Text(said, lead=not front))
    if found.joined and found.reference is not None:
        blocks.append(Text(_beside_paper(found, found.reference)))
        blocks += [Text(effects_claim(changed)) for changed in contrasts(found.joined[0])]
    if found.is_confirmed:
        blocks.append(Text(_beside_first_choice(found)))
    if found.ranked:
        blocks.append(Text(seeds_claim(found.judged)))
    return blocks


def _front(found: Findings) -> str:
    study = found.plan.study
    if not isinstance(study, SearchStudy) or study.minimise is None:
        return ""
    return report_results.front_claim(found.searched, study.metric, study.minimise)


def _what(found: Findings) -> str:
    first = found.settings[0].first
    varied = []
    for key in first.varied:
        values = {
            value_text(setting.first.varied[key]): setting.first.varied[key] for setting in found.settings
        }
        if all(isinstance(value, int | float) for value in values.values()):
            values = dict(sorted(values.items(), key=lambda pair: float(pair[1])))
        listed = ", ".join(values) if len(values) <= 8 else f"{len(values)} values"
        varied.append(f"{parameter_name(key)} ({listed})")
    *others, last = varied or ["nothing"]
    backbones = dict.fromkeys(setting.first.config.detector.backbone for setting in found.settings)
    answers = found.plan.study.answers
    question = f" What it answers: {answers}{'' if answers.endswith('?') else '.'}" if answers else ""
    return (
        f"This study varies {', '.join(others)}{' and ' if others else ''}{last} of a detector with a "
        f"{' or '.join(backbones)} backbone. Data: {report_context.data_words(first)}.{question}"
    )


def _states(runs: Sequence[Replicate]) -> str:
    words = {
        "finished": "finished",
        "pruned": "were cut early",
        "failed": "failed",
        "pending": "have not finished",
    }
    counts = {status: sum(run.record.status == status for run in runs) for status in words}
    parts = [f"{counts[status]} {word}" for status, word in words.items() if counts[status]]
    left = [run.trial.name for run in runs if run.record.status in {"failed", "pending"}]
    named = f" ({'; '.join(left)})" if 0 < len(left) <= 6 else ""
    if counts["finished"] == len(runs):
        return f"All {len(runs)} trials finished." if len(runs) > 1 else "Its one trial finished."
    return f"Of {len(runs)} trials {', '.join(parts)}{named}."


def _beside_paper(found: Findings, reference: Setting) -> str:
    """How the settings compare with the paper's best."""
    table = found.joined[0]
    figure = table.best[0][0].figures["AP"]
    best = [setting for _, setting in table.best]
    stands = found.plan.profile == "laptop" and bool(found.plan.study.laptop)
    if len(best) == 1:
        whose = "the one that stands here for the paper's best" if stands else "the paper's best"
        said = f"In {table.table}, {reference.name} is {whose} (AP {figure:.1f} there)."
    else:
        whose = "those that stand here for the paper's best" if stands else "the paper's best"
        names = " and ".join(setting.name for setting in best)
        said = (
            f"In {table.table}, {names} are {whose} (AP {figure:.1f} each there); "
            f"compared here is {reference.name}."
        )
    compared = against(reference, found.judged, found.metric)
    if not compared:
        return f"{said} It cannot be compared here: its trials have not finished, or no other one has."
    better = [each.name for each in compared if each.is_significant and each.difference.value > 0]
    worse = [each.name for each in compared if each.is_significant and each.difference.value < 0]
    same = len(compared) - len(better) - len(worse)
    own = " Here it is the highest as well." if found.best is reference else ""
    if len(compared) == 1:
        return f"{said}{own} {compared[0].sentence}"
    return (
        f"{said}{own} By {found.metric}, of the {len(compared)} other settings {_count(better)} shown to be "
        f"better than it, {_count(worse)} shown to be worse, and for {same} no difference is shown."
    )


def _beside_first_choice(found: Findings) -> str:
    """How a search's best settings compare with the one that was chosen before it."""
    said = (
        "Compared are only the settings that were trained again after the search, with seeds it did not use."
    )
    reference = found.reference
    if reference is None or not (compared := against(reference, found.judged, found.metric)):
        return said
    return f"{said} Against the setting chosen before: {' '.join(each.sentence for each in compared)}"


def _count(names: Sequence[str]) -> str:
    listed = f" ({'; '.join(names)})" if 0 < len(names) <= 4 else ""
    return f"{len(names) or 'none'}{listed} {'are' if len(names) > 1 else 'is'}"


def _results(found: Findings) -> list[Block]:
    best = found.best
    shown = [setting for setting in found.judged if any(run.is_finished for run in setting.runs)]
    blocks: list[Block] = []
    if found.joined:
        first = found.settings[0].first.config
        blocks.append(
            Text(
                f"The paper trained on {found.joined[0].data}, this study on `{first.data.source}`: compare "
                "how the figures change from setting to setting, not their level."
            )
        )
    blocks += report_results.numbers(shown or found.judged, found.joined, best.name if best else None)
    if found.ranked:
        blocks.append(report_results.comparison_table(found.ranked, of_best=True))
        reference = found.reference
        if reference is not None and reference.name != found.ranked[0].name:
            compared = against(reference, found.judged, found.metric)
            if compared:
                blocks.append(report_results.comparison_table(compared, of_best=False))
    for table in found.joined:
        blocks += report_results.paper_section(table)
    return blocks


def _samples(found: Findings) -> list[Block]:
    best = found.best
    run = next((run for run in best.runs if run.measured), None) if best else None
    annotations = load_annotations(run.trial.data.val) if run else None
    if run is None or annotations is None:
        return [Text("No finished detector's detections are there to draw.")]
    top, bottom = samples(run, annotations)
    drawn = f" Chosen among {MOST_IMAGES} drawn at random." if len(annotations) > MOST_IMAGES else ""
    return [
        Text(
            f"Of {run.trial.name}: the test images with the highest and the lowest AP of their own. "
            "White boxes are true objects, named below; blue ones are detections that are right (IoU from "
            f"0.5), orange ones are wrong. Only detections with a score from {LEAST_SCORE} are drawn and "
            f"counted; AP counts weaker ones too.{drawn}"
        ),
        Heading("Best images", 3),
        top,
        Heading("Worst images", 3),
        bottom,
    ]
