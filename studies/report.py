"""The report of a study: ``report.md``, ``report.html`` and figures, for readers who have seen nothing else.

It is written from what the trials' folders hold, finished or not, and can be written again at any time::

    python studies/run_study.py report nms_sweep
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drcnn.files import replacing, write_text
from studies import report_context, report_cost, report_results
from studies.claims import Joined, against, best_claim, contrast, effects_claim, join, ranking, seeds_claim
from studies.document import Block, Document, Heading, Text
from studies.evidence import Run, Setting, display_name, gather, load_annotations, short
from studies.precision import METRICS
from studies.report_html import page
from studies.samples import LEAST_SCORE, MOST_IMAGES, samples
from studies.statistics import Comparison
from studies.study import SearchStudy
from studies.trials import Plan, Trial, models

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
    document = _document(_Findings.of(plan, trials))
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "report.md", folder / "report.html"]
    write_text(files[0], document.markdown())
    write_text(files[1], page(document))
    for picture in document.pictures():
        files.append(folder / picture.file)
        with replacing(files[-1]) as draft:
            draft.write_bytes(picture.light)
    return files


@dataclass(frozen=True)
class _Findings:
    """What the sections tell of.

    Attributes:
        settings: all, with all their runs.
        judged: those that are compared: of a search that was confirmed, only the confirmation's runs.
        joined: the paper's tables.
        metric: that the comparisons are about.
        ranked: the highest setting against each other one.
        reference: the setting to compare with: the paper's best, or the study's first.
        trainings: trials that only train what the study's own evaluate.
        is_confirmed: those compared were trained again after a search.
    """

    plan: Plan
    settings: list[Setting]
    judged: list[Setting]
    joined: list[Joined]
    metric: str
    ranked: list[Comparison]
    reference: Setting | None
    trainings: list[Run]
    is_confirmed: bool

    @classmethod
    def of(cls, plan: Plan, trials: Sequence[Trial]) -> _Findings:
        settings = gather(trials)
        again = [setting for setting in _confirmed(plan, settings) if setting.replicates]
        judged = again or settings
        joined = join(plan, judged)
        metric = plan.study.metric.removeprefix("val/")
        metric = metric if metric in METRICS else "AP"
        return cls(
            plan=plan,
            settings=settings,
            judged=judged,
            joined=joined,
            metric=metric,
            ranked=ranking(judged, metric),
            reference=_reference(plan, judged, joined),
            trainings=[run for setting in gather(models(trials)) for run in setting.runs],
            is_confirmed=bool(again),
        )

    @property
    def runs(self) -> list[Run]:
        """Of all settings, in order."""
        return [run for setting in self.settings for run in setting.runs]

    @property
    def best(self) -> Setting | None:
        """The setting of the highest mean."""
        known = [setting for setting in self.judged if setting.values(self.plan.study.metric)]
        return max(known, key=lambda setting: setting.mean(self.plan.study.metric), default=None)


def _confirmed(plan: Plan, settings: Sequence[Setting]) -> list[Setting]:
    """The settings of a search's confirmation, with those of their runs whose seed the search did not use."""
    if not isinstance(plan.study, SearchStudy):
        return []
    runs = {
        setting.name: tuple(run for run in setting.runs if run.trial.config.seed != plan.base.seed)
        for setting in settings
    }
    return [Setting(name, found) for name, found in runs.items() if found]


def _reference(plan: Plan, settings: Sequence[Setting], joined: Sequence[Joined]) -> Setting | None:
    if joined:
        return joined[0].best()[1]
    if isinstance(plan.study, SearchStudy) and plan.study.confirm:
        wanted = plan.config(plan.study.confirm.against, 0)
        for setting in settings:
            if setting.first.config.model_copy(update={"seed": 0}) == wanted:
                return setting
    return settings[0] if settings else None


def _document(found: _Findings) -> Document:
    plan = found.plan
    blocks: list[Block] = [Heading("Summary"), *_summary(found)]
    blocks += [Heading("How to read this"), *report_context.how_to_read()]
    if found.settings:
        blocks += [Heading("Results"), *_results(found)]
        blocks.append(Heading("Curves"))
        blocks += report_results.curves(found.judged, found.reference or found.judged[0], plan.study.metric)
        if isinstance(plan.study, SearchStudy):
            again = _confirmed(plan, found.settings)
            own = [run for run in found.runs if run.trial.config.seed == plan.base.seed]
            blocks += [Heading("The search"), *report_results.search_section(plan.study, own, again)]
        blocks += [Heading("Sample detections"), *_samples(found)]
        blocks += [Heading("Cost"), *report_cost.cost(found.runs, found.trainings)]
        data = found.joined[0].data if found.joined else ""
        blocks += [
            Heading("What differs from the paper"),
            *report_context.deviations(plan, found.settings, data),
        ]
        blocks += [Heading("Where this is from"), *report_context.origin(plan, found.settings)]
    return Document(plan.study.title, f"Report of the study {plan.name}: Decoupled R-CNN", tuple(blocks))


def _summary(found: _Findings) -> list[Block]:
    if not found.settings:
        return [Text("No trial has begun.", lead=True)]
    blocks: list[Block] = [Text(sentence) for sentence in (_what(found), _states(found.runs))]
    best = found.best
    if best is None:
        return [*blocks, Text("No trial has finished: nothing can be said yet.", lead=True)]
    if found.ranked:
        blocks.append(Text(f"{best_claim(found.ranked, found.judged)} {found.ranked[0].sentence}", lead=True))
    else:
        figure = 100 * best.mean(found.plan.study.metric)
        name = found.plan.study.metric.removeprefix("val/")
        why = (
            "only one setting has finished"
            if sum(bool(setting.values(found.plan.study.metric)) for setting in found.judged) == 1
            else "the detections or the test images are not there to compare"
        )
        said = f"{best.name} has the highest {name}, {figure:.1f}; **no winner can be named**: {why}."
        blocks.append(Text(said, lead=True))
    if found.joined and found.reference is not None:
        blocks.append(Text(_beside_paper(found, found.reference)))
        blocks += [Text(said) for said in (effects_claim(contrast(found.joined[0])),) if said]
    if found.is_confirmed:
        blocks.append(Text(_beside_first_choice(found)))
    if found.ranked:
        blocks.append(Text(seeds_claim(found.judged)))
    return blocks


def _what(found: _Findings) -> str:
    first = found.settings[0].first
    varied = []
    for key in first.varied:
        values = {short(setting.first.varied[key]): setting.first.varied[key] for setting in found.settings}
        if all(isinstance(value, int | float) for value in values.values()):
            values = dict(sorted(values.items(), key=lambda pair: float(pair[1])))
        listed = ", ".join(values) if len(values) <= 8 else f"{len(values)} values"
        varied.append(f"{display_name(key)} ({listed})")
    *others, last = varied or ["nothing"]
    backbones = dict.fromkeys(setting.first.config.detector.backbone for setting in found.settings)
    answers = found.plan.study.answers
    question = f" What it answers: {answers}{'' if answers.endswith('?') else '.'}" if answers else ""
    return (
        f"This study varies {', '.join(others)}{' and ' if others else ''}{last} of a detector with a "
        f"{' or '.join(backbones)} backbone. Data: {report_context.data_words(first)}.{question}"
    )


def _states(runs: Sequence[Run]) -> str:
    words = {
        "finished": "finished",
        "pruned": "were cut early",
        "failed": "failed",
        "unfinished": "have not finished",
    }
    counts = {status: sum(run.outcome.status == status for run in runs) for status in words}
    parts = [f"{counts[status]} {word}" for status, word in words.items() if counts[status]]
    left = [run.trial.name for run in runs if run.outcome.status in {"failed", "unfinished"}]
    named = f" ({'; '.join(left)})" if 0 < len(left) <= 6 else ""
    if counts["finished"] == len(runs):
        return f"All {len(runs)} trials finished." if len(runs) > 1 else "Its one trial finished."
    return f"Of {len(runs)} trials {', '.join(parts)}{named}."


def _beside_paper(found: _Findings, reference: Setting) -> str:
    """How the settings compare with the paper's best."""
    table = found.joined[0]
    row, _ = table.best()
    stands = found.plan.profile == "laptop" and bool(found.plan.study.laptop)
    whose = "the one that stands here for the paper's best" if stands else "the paper's best"
    said = f"In {table.table}, {reference.name} is {whose} (AP {row.figures['AP']:.1f} there)."
    compared = against(reference, found.judged, found.metric)
    if not compared:
        return f"{said} It cannot be compared here: its trials have not finished, or no other one has."
    better = [each.name for each in compared if each.shown and each.difference.value > 0]
    worse = [each.name for each in compared if each.shown and each.difference.value < 0]
    same = len(compared) - len(better) - len(worse)
    own = " Here it is the highest as well." if found.best is reference else ""
    if len(compared) == 1:
        return f"{said}{own} {compared[0].sentence}"
    return (
        f"{said}{own} By {found.metric}, of the {len(compared)} other settings {_count(better)} shown to be "
        f"better than it, {_count(worse)} shown to be worse, and for {same} no difference is shown."
    )


def _beside_first_choice(found: _Findings) -> str:
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


def _results(found: _Findings) -> list[Block]:
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


def _samples(found: _Findings) -> list[Block]:
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
            "White boxes are true objects; blue ones are detections that are right (IoU from 0.5), orange "
            f"ones are wrong. Detections with a score from {LEAST_SCORE} are drawn.{drawn}"
        ),
        Heading("Best images", 3),
        top,
        Heading("Worst images", 3),
        bottom,
    ]
