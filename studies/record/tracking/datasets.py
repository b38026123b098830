"""A study's data as MLflow's datasets: one a split, with its digest, source and counts."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from drcnn.data.annotations import Annotations
from studies.definition.plan import Trial

__all__ = ["dataset_inputs"]


def dataset_inputs(trial: Trial) -> list[DatasetInput]:
    """The splits that a trial is trained, chosen and judged by."""
    source = trial.config.data.source
    name = source.rstrip("/").rpartition("/")[2].rpartition(":")[2] or source
    inputs = []
    for split, path in trial.data.tables.items():
        annotations = Annotations.load(path)
        dataset = Dataset(
            name=f"{name} {split}",
            digest=annotations.fingerprint[:16],
            source_type="local",
            source=json.dumps({"source": source, "split": split}),
            profile=json.dumps(_counts(annotations)),
        )
        inputs.append(DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, split)]))
    return inputs


def _counts(annotations: Annotations) -> Mapping[str, object]:
    ignored = annotations.all_ignore
    objects = np.bincount(annotations.all_labels[~ignored], minlength=len(annotations.classes))
    return {
        "images": len(annotations),
        "images without objects": int((annotations.trainable_counts == 0).sum()),
        "objects": int(objects.sum()),
        "objects not judged": int(ignored.sum()),
        "objects by class": dict(zip(annotations.classes, objects.tolist(), strict=True)),
    }
