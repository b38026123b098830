"""What ``mlflow:RUN`` names as MODEL of a ``drcnn`` command: a study's published model, or a trial of it.

``drcnn`` knows nothing of MLflow; it finds this module by the entry point ``drcnn.models`` of pyproject.toml.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from sqlalchemy.exc import SQLAlchemyError

from drcnn.config import ConfigError
from drcnn.trained_model import TrainedModel, find_model
from studies.definition.errors import one_line
from studies.definition.request import Request
from studies.record.tracking.addresses import default_uri, redacted
from studies.record.tracking.experiments import OUTPUT
from studies.record.tracking.trial_runs import BEST, NAME, TRIAL_ID

__all__ = ["find"]

EXPECTED = "expected mlflow:RUN, the id of a run in MLflow, or mlflow:models:/STUDY/VERSION"


def find(name: str) -> TrainedModel:
    """Find a model in the tracking store of ``$MLFLOW_TRACKING_URI``, or else of the output folder ``runs``.

    Args:
        name: id of a study's run, whose published model is downloaded; of a trial's run, whose folder must be
            reachable unless it is the published one; or ``models:/STUDY/VERSION``, a registered model.

    Raises:
        ConfigError: there is no such run or model, or its weights cannot be reached.
    """
    uri = _tracking_uri(name)
    try:
        if name.startswith("models:/"):
            return _downloaded(name, uri)
        client = MlflowClient(tracking_uri=uri)
        run = client.get_run(name)
        if run.data.tags.get(BEST):
            run = client.get_run(run.data.tags[MLFLOW_PARENT_RUN_ID])
        if run.outputs is not None and run.outputs.model_outputs:
            return _downloaded(f"models:/{run.outputs.model_outputs[-1].model_id}", uri)
    except (MlflowException, SQLAlchemyError) as error:
        why = redacted(f"{one_line(error)} (in {uri})")
        raise ConfigError(f"mlflow:{name}: {why}; {EXPECTED}") from None
    return _in_folder(name, run)


def _tracking_uri(name: str) -> str:
    own = Request.output.resolve()
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    if (own / "mlflow.db").is_file():
        return default_uri(own)
    raise ConfigError(
        f"mlflow:{name}: where are the runs? There is no {Request.output}/mlflow.db here; set "
        "MLFLOW_TRACKING_URI=sqlite:////OUTPUT/mlflow.db, or a server's address"
    )


def _downloaded(model: str, uri: str) -> TrainedModel:
    folder = tempfile.mkdtemp(prefix="drcnn-")
    # For as long as the command reads from it.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(download_artifacts(model, dst_path=folder, tracking_uri=uri, registry_uri=uri))
    try:
        flavor = Model.load(str(path)).flavors["python_function"]
        return TrainedModel(path / flavor["artifacts"]["checkpoint"]["path"], flavor["config"]["changes"])
    except (KeyError, TypeError):
        raise ConfigError(f"mlflow:{model}: is not the published model of a study") from None


def _in_folder(name: str, run: Run) -> TrainedModel:
    tags = run.data.tags
    if TRIAL_ID not in tags:
        raise ConfigError(f"mlflow:{name}: this run has published no model; {EXPECTED}")
    try:
        return find_model(str(Path(tags[OUTPUT], "trials", tags[TRIAL_ID])))
    except ConfigError as error:
        raise ConfigError(
            f"mlflow:{name}: MLflow keeps the weights of the published model only; those of the trial "
            f"{tags.get(NAME, '')} are not here: {error}"
        ) from None
