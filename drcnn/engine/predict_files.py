"""Detect in files, and write what was found: pictures with boxes, COCO's JSON, label files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import Progress, TaskID

from drcnn.data.annotations import DataError
from drcnn.data.files.drawing import draw_detections, drawn_names
from drcnn.data.files.picture_files import PictureFile
from drcnn.data.files.prediction_files import LabelledPicture, write_coco, write_labels
from drcnn.data.files.video import frames, writing
from drcnn.data.images import decode
from drcnn.engine.evaluate import BATCH
from drcnn.engine.predict import Prediction, Predictor

__all__ = ["Summary", "predict_files"]

# Others are drawn as PNG, ``photo.tif.png``.
DRAWN_AS_THEY_ARE = {".jpg", ".jpeg", ".png"}
# Pixels that are decoded at once.
MOST_PIXELS = 64_000_000

Pixels = NDArray[np.uint8]


@dataclass
class Summary:
    """What was found.

    Attributes:
        pictures: how many pictures and frames were read.
        counts: detections by class.
        skipped: one message for each file that could not be read.
        highest: the highest score of all, also below the threshold; 0 if nothing was detected.
        predictions: path of COCO's JSON.
        labels: the folder of the label files, if they were asked for.
    """

    pictures: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    highest: float = 0.0
    predictions: str = ""
    labels: str | None = None

    def as_json(self) -> dict[str, object]:
        """Return what ``--json`` prints."""
        return asdict(self)


def predict_files(
    predictor: Predictor,
    files: Sequence[PictureFile],
    output: Path,
    *,
    score: float,
    label_format: str | None = None,
) -> Summary:
    """Detect in all files; damaged ones are skipped, and named in the summary. Progress goes to stderr.

    Args:
        predictor: detects at least everything of this score.
        files: pictures and videos.
        output: gets ``predictions.json``, ``pictures/`` and the label files.
        score: least of the detections that are drawn and written.
        label_format: 'yolo' or 'voc', to write label files too.

    Raises:
        OSError: the results cannot be written, or the file system of the pictures failed.
        DataError: two pictures would share a label file.
    """
    run = _Run(predictor, output, score)
    pictures = [file for file in files if not file.is_video]
    videos = [file for file in files if file.is_video]
    with Progress(console=Console(stderr=True)) as progress:
        if pictures:
            run.pictures(pictures, progress, progress.add_task("pictures", total=len(pictures)))
        for video in videos:
            run.video(video, progress, progress.add_task(video.path.name, total=None))
    summary = run.summary
    summary.pictures = len(run.found)
    summary.predictions = str(output / "predictions.json")
    output.mkdir(parents=True, exist_ok=True)
    write_coco(output / "predictions.json", run.found, predictor.classes)
    if label_format is not None:
        summary.labels = str(write_labels(label_format, output, run.found, predictor.classes))
    return summary


class _Run:
    """One call of ``predict_files``."""

    def __init__(self, predictor: Predictor, output: Path, score: float) -> None:
        self.predictor, self.folder, self.score = predictor, output / "pictures", score
        self.names = drawn_names(predictor.classes)
        self.found: list[LabelledPicture] = []
        self.summary = Summary(counts=dict.fromkeys(predictor.classes, 0))

    def pictures(self, files: Sequence[PictureFile], progress: Progress, task: TaskID) -> None:
        for names, batch in _batches(self._readable(files, progress, task)):
            for name, pixels, found in zip(names, batch, self.predictor.predict(batch), strict=True):
                path = self.folder / name
                if path.suffix.lower() not in DRAWN_AS_THEY_ARE:
                    path = path.with_name(f"{path.name}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                self._keep(name, pixels, found).save(path, quality=90)

    def video(self, file: PictureFile, progress: Progress, task: TaskID) -> None:
        path = self.folder / file.name
        if path.suffix.lower() != ".mp4":
            path = path.with_name(f"{path.name}.mp4")
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            add = None
            try:
                for number, (seconds, pixels) in enumerate(frames(file.path), 1):
                    (found,) = self.predictor.predict([pixels])
                    drawn = self._keep(f"{file.name}/{number:06}", pixels, found, seconds)
                    add = add or stack.enter_context(writing(path, file.path))
                    add(np.asarray(drawn))
                    progress.advance(task)
            except DataError as error:
                self.summary.skipped.append(_fault(error))

    def _readable(
        self, files: Sequence[PictureFile], progress: Progress, task: TaskID
    ) -> Iterator[tuple[str, Pixels]]:
        for file in files:
            try:
                yield file.name, decode(str(file.path)).permute(1, 2, 0).numpy()
            except DataError as error:
                self.summary.skipped.append(_fault(error))
            progress.advance(task)

    def _keep(
        self, name: str, pixels: Pixels, prediction: Prediction, seconds: float | None = None
    ) -> Image.Image:
        """Note what was found in a picture, and draw it."""
        self.summary.highest = max(self.summary.highest, float(prediction.scores.max(initial=0)))
        found = prediction.above(self.score)
        self.found.append(
            LabelledPicture(name, found.width, found.height, found.boxes, found.scores, found.labels, seconds)
        )
        for label in found.labels:
            self.summary.counts[label] += 1
        drawn = Image.fromarray(pixels)
        labels = list(map(self.predictor.classes.index, found.labels))
        texts = [f"{self.names[at]} {score:.2f}" for at, score in zip(labels, found.scores, strict=True)]
        draw_detections(drawn, found.boxes, texts, labels)
        return drawn


def _fault(error: DataError) -> str:
    """The message without its last clause, which says how training gets past the file."""
    message, semicolon, _ = str(error).rpartition("; ")
    return message if semicolon else str(error)


def _batches(pictures: Iterator[tuple[str, Pixels]]) -> Iterator[tuple[list[str], list[Pixels]]]:
    """Yield up to ``BATCH`` pictures at once, fewer of large ones."""
    names: list[str] = []
    batch: list[Pixels] = []
    for name, pixels in pictures:
        names.append(name)
        batch.append(pixels)
        if len(batch) == BATCH or sum(one.size for one in batch) >= 3 * MOST_PIXELS:
            yield names, batch
            names, batch = [], []
    if batch:
        yield names, batch
