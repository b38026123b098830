"""Publishes a study's best detector: an MLflow model in its run, registered under the study's name.

    mlflow models serve -m models:/nms_sweep/1 --env-manager local

It brings drcnn's code, so that it can be served where only its requirements are installed.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array
from PIL import Image

from drcnn.data.annotations import Annotations
from drcnn.trained_model import find_model
from studies.definition.plan import Trial

__all__ = ["publish"]

CODE = Path(__file__).with_name("served_model.py")
PACKAGE = Path(__file__).resolve().parents[3] / "drcnn"
# What the served code imports.
REQUIRED = (
    "mlflow",
    "torch",
    "torchvision",
    "numpy",
    "pandas",
    "pillow",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "safetensors",
    "filelock",
)
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string, "image")]),
    outputs=Schema(
        [
            ColSpec(Array(Array(DataType.double)), "boxes"),
            ColSpec(Array(DataType.double), "scores"),
            ColSpec(Array(DataType.string), "labels"),
        ]
    ),
    params=ParamSchema([ParamSpec("least_score", DataType.double, 0.0)]),
)
# A tag of the run: the trial whose model it has published; and of that model's registered version.
PUBLISHED = "drcnn.published"
EXAMPLE_SIDE = 256  # pixels, at most


def publish(client: MlflowClient, run: str, study: Path, best: Trial) -> None:
    """Log a study's published model in a run, and register it; nothing is done for one that is there.

    Args:
        client: of the tracking store.
        run: id of the launch's run.
        study: the study's folder, which names the checkpoint and, by its own name, the registered model.
        best: the trial that is published.

    Raises:
        ConfigError: the checkpoint is not here.
        CheckpointError: it is damaged.
        MlflowException: the store cannot be written.
    """
    found = client.get_run(run)
    if found.data.tags.get(PUBLISHED) == best.id:
        return
    if _is_registered(client, run, study.name, best):
        # A launch was killed between the two, or the store failed.
        client.set_tag(run, PUBLISHED, best.id)
        return
    from drcnn.engine.checkpoint import read_model

    model, name = find_model(str(study)), study.name
    read_model(model.checkpoint)  # a damaged one is not published
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        _save(folder, model.checkpoint, model.changes, best)
        logged = client.create_logged_model(
            found.info.experiment_id,
            name,
            source_run_id=run,
            tags={"drcnn.trial": best.name},
            model_type="detector",
        )
        client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run, [LoggedModelOutput(logged.model_id, 0)])
    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name, description=f"The detector that the study {name} publishes.")
    client.create_model_version(
        name,
        logged.artifact_location,
        run,
        tags={PUBLISHED: best.id},
        description=best.name,
        model_id=logged.model_id,
    )
    client.set_tag(run, PUBLISHED, best.id)


def _is_registered(client: MlflowClient, run: str, name: str, best: Trial) -> bool:
    # Not by its name, in which a quotation mark would end the query.
    versions = client.search_model_versions(f"run_id = '{run}'")
    return any(found.name == name and found.tags.get(PUBLISHED) == best.id for found in versions)


def _save(folder: Path, checkpoint: Path, changes: Mapping[str, Any], best: Trial) -> None:
    logger = logging.getLogger("mlflow")
    level = logger.level
    # It advises on types of the predict function, which a signature states already.
    logger.setLevel(logging.ERROR)
    try:
        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(CODE),
            model_config={"changes": json.loads(json.dumps(dict(changes)))},
            artifacts={"checkpoint": checkpoint.resolve().as_uri()},
            code_paths=[str(PACKAGE)],
            signature=SIGNATURE,
            input_example=(pd.DataFrame({"image": [_example(best)]}), {"least_score": 0.5}),
            pip_requirements=_requirements(),
        )
    finally:
        logger.setLevel(level)


def _requirements() -> list[str]:
    # Without what names a build for a device (2.11.0+cu128), which the package index does not have.
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in REQUIRED]


def _example(trial: Trial) -> str:
    """The first image that the trial is judged by, made small, as a PNG file in base64."""
    source = Annotations.load(trial.data.judged_table).source(0)
    with Image.open(source if isinstance(source, str) else io.BytesIO(source)) as stored:
        image = stored.convert("RGB")
    image.thumbnail((EXAMPLE_SIDE, EXAMPLE_SIDE))
    target = io.BytesIO()
    image.save(target, format="PNG")
    return base64.b64encode(target.getvalue()).decode()
