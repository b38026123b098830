"""What Google's and Kubernetes' own descriptions of their interfaces say of the files of cluster/."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.cli import server as mlflow_server
from ray.scripts.scripts import start

CLUSTER = Path(__file__).parents[2] / "cluster"


def kuberay() -> dict[str, Any]:
    job: dict[str, Any] = yaml.safe_load((CLUSTER / "kuberay.yaml").read_text())
    return job


def kube_mlflow() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / "kube_mlflow.yaml").read_text()))


def groups() -> list[dict[str, Any]]:
    """The groups of pods, the head's first."""
    cluster = kuberay()["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_kuberay_keeps_trials_from_the_head_and_strangers_from_ray() -> None:
    job = kuberay()
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    # Nothing is paid for longer than somebody meant to: not twice for what fails, not for nodes that wait.
    assert job["spec"]["shutdownAfterJobFinishes"]
    assert job["spec"]["backoffLimit"] == 0
    assert 0 < job["spec"]["preRunningDeadlineSeconds"] <= 3600
    assert 0 < job["spec"]["activeDeadlineSeconds"] <= 7 * 24 * 3600
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"]["mode"] == "token"
    head, *workers = groups()
    parameters = {"num-cpus": "0", "num-gpus": "0", "object-store-memory": "1000000000"}
    assert head["rayStartParams"] == parameters
    (container,) = head["template"]["spec"]["containers"]
    # Room for what trials of several workers keep there, and time to close a stopped job's runs.
    assert container["resources"]["limits"]["memory"] == "32Gi"
    assert {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "120"} in container["env"]
    for group in workers:
        # The job waits for all of them, and nobody may take away those that wait.
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert int(limits["nvidia.com/gpu"]) >= 1
    assert not cluster["enableInTreeAutoscaling"]


@pytest.mark.parametrize("group", groups(), ids=["head", "gpu"])
def test_kuberay_gives_every_pod_memory_to_share_and_a_folder_of_its_own(group: dict[str, Any]) -> None:
    options = {option for parameter in start.params for option in parameter.opts}
    assert {f"--{name}" for name in group["rayStartParams"]} <= options
    assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    pod = group["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    volumes = {each["name"]: each for each in pod["volumes"]}
    (container,) = pod["containers"]
    mounts = {each["mountPath"]: volumes[each["name"]] for each in container["volumeMounts"]}
    assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
    assert "emptyDir" in mounts["/home/ray/results"]
    arguments = kuberay()["spec"]["entrypoint"].split()
    assert arguments[arguments.index("--storage") + 1].startswith("s3://")


def unknown_to_kubernetes(models: Any, kind: str, value: Any, path: str) -> Iterator[str]:
    """Fields that a model of Kubernetes' client does not have."""
    if kind.lower().startswith("list["):  # in capitals in some versions
        for item in value:
            yield from unknown_to_kubernetes(models, kind[5:-1], item, path)
        return
    model = getattr(models, kind, None)
    if model is None:
        return
    types = {model.attribute_map[name]: each for name, each in model.openapi_types.items()}
    for name, item in value.items():
        if name in types:
            yield from unknown_to_kubernetes(models, types[name], item, f"{path}.{name}")
        else:
            yield f"{path}.{name}"


def test_kubernetes_knows_every_field() -> None:
    models = pytest.importorskip("kubernetes.client.models", reason="needs: pip install kubernetes")
    slip = {"spec": {"containers": [{"name": "a", "imagePulPolicy": "Never"}]}}
    found = list(unknown_to_kubernetes(models, "V1PodTemplateSpec", slip, "pod"))
    assert found == ["pod.spec.containers.imagePulPolicy"]
    for group in groups():
        assert list(unknown_to_kubernetes(models, "V1PodTemplateSpec", group["template"], "pod")) == []
    for document in kube_mlflow():
        kind = f"V1{document['kind']}"
        assert list(unknown_to_kubernetes(models, kind, document, kind)) == []


def test_mlflow_on_kubernetes_is_found_and_has_its_password_in_the_environment_only() -> None:
    services = {each["metadata"]["name"] for each in kube_mlflow() if each["kind"] == "Service"}
    (container,) = groups()[0]["template"]["spec"]["containers"]
    given = {each["name"]: each.get("value", "") for each in container["env"]}
    assert given["MLFLOW_TRACKING_URI"] == "http://drcnn-mlflow:5000"
    assert services == {"drcnn-mlflow", "drcnn-postgres"}
    (mlflow,) = (each for each in kube_mlflow() if each["kind"] == "Deployment")
    (server,) = mlflow["spec"]["template"]["spec"]["containers"]
    assert not [word for word in server["command"] if "://" in word]
    options = {option for parameter in mlflow_server.params for option in parameter.opts}
    assert {word for word in server["command"] if word.startswith("--")} <= options
    variables = {each["name"]: each.get("value", "") for each in server["env"]}
    known = {str(name) for parameter in mlflow_server.params for name in [parameter.envvar] if name}
    assert {"MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION"} <= known
    assert "drcnn-mlflow:5000" in variables["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert variables["MLFLOW_BACKEND_STORE_URI"].count("$(POSTGRES_PASSWORD)") == 1
    assert list(variables).index("POSTGRES_PASSWORD") < list(variables).index("MLFLOW_BACKEND_STORE_URI")


def unknown_to_google(
    schemas: dict[str, Any], schema: dict[str, Any], value: Any, path: str
) -> Iterator[str]:
    """Fields that Google's description does not have, and values of another type or name."""
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
    expected = types.get(schema.get("type", ""), object)
    # Long integers are strings in JSON, which the client makes of them.
    if not isinstance(value, expected) and schema.get("format") not in {"int64", "uint64"}:
        yield f"{path}: {value!r}"
    elif isinstance(value, list):
        for item in value:
            yield from unknown_to_google(schemas, schema["items"], item, path)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name in schema.get("properties", {}):
                yield from unknown_to_google(schemas, schema["properties"][name], item, f"{path}.{name}")
            else:
                yield f"{path}.{name}"
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r}"


def test_google_knows_every_field_of_the_nodes() -> None:
    client = pytest.importorskip("googleapiclient", reason="needs: pip install google-api-python-client")
    document = Path(client.__file__).parent / "discovery_cache/documents/compute.v1.json"
    schemas = json.loads(document.read_text())["schemas"]
    node = {"$ref": "Instance"}
    slip = {"scheduling": {"provisioningModel": "SPOTTY", "preemptable": True}}
    found = list(unknown_to_google(schemas, node, slip, "node"))
    assert found == ["node.scheduling.provisioningModel: 'SPOTTY'", "node.scheduling.preemptable"]
    config = yaml.safe_load((CLUSTER / "gcp.yaml").read_text())
    types = config["available_node_types"]
    for name, kind in types.items():
        assert list(unknown_to_google(schemas, node, kind["node_config"], name)) == []
    (offer,) = config["provider"]["offers"]["gpu"]
    assert list(unknown_to_google(schemas, node, types["gpu"]["node_config"] | offer, "offer")) == []
    assert offer["scheduling"]["provisioningModel"] == "SPOT"
    assert "provisioningModel" not in types["gpu"]["node_config"]["scheduling"]
