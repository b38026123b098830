"""A study's experiment in MLflow."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException

__all__ = ["opened_experiment"]


def opened_experiment(client: MlflowClient, name: str, location: str | None) -> Experiment:
    """Return the experiment of this name: made, or restored if somebody deleted it.

    Args:
        client: of the store.
        name: the study's.
        location: of a new experiment's artifacts; none leaves it to the tracking server.
    """
    experiment: Experiment | None = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            client.create_experiment(name, artifact_location=location)
        except MlflowException:
            # Another launch may have made it at this moment; if not, the store's error is the right one.
            if client.get_experiment_by_name(name) is None:
                raise
        experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return experiment
