"""The policies of cluster/aws: enough for what the head's autoscaler and the nodes do, for nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from policy import is_allowed

pytest.importorskip("boto3", reason="needs boto3: pip install '.[cluster]'")
pytest.importorskip("moto", reason="needs a simulated AWS: pip install '.[test]'")

from simulated_aws import CLUSTER, aws, bootstrapped
from test_aws import Recorder

__all__ = ["aws"]

HEAD = CLUSTER / "aws/head.json"
BUCKET = CLUSTER / "aws/bucket.json"
POLICIES = sorted(CLUSTER.glob("aws/*.json"))
INSTANCE = "arn:aws:ec2:us-east-1:123456789012:instance/i-1"
OURS = {"aws:ResourceTag/ray-cluster-name": "drcnn"}
MADE_OF = ("key-pair", "network-interface", "security-group", "subnet", "volume", "spot-instances-request")


def may(action: str, resource: str = INSTANCE, **context: str) -> bool:
    return is_allowed(HEAD, f"ec2:{action}", resource, context)


def started(**changes: str) -> dict[str, str]:
    """What AWS knows of a request to start a node, as Ray makes it."""
    known = {
        "aws:RequestTag/ray-cluster-name": "drcnn",
        "ec2:InstanceType": "g5.12xlarge",
        "ec2:MetadataHttpTokens": "required",
    }
    return known | changes


@pytest.mark.usefixtures("aws")
def test_the_head_may_do_all_that_its_autoscaler_asks() -> None:
    recorder = Recorder(bootstrapped())
    for offer in recorder.config["provider"]["offers"]["gpu"]:
        recorder.provider._offers._offers["gpu"] = [offer]
        _, node = recorder.launch("gpu")
    recorder.provider.non_terminated_nodes({})
    recorder.provider.set_node_tags(node, {"ray-node-status": "up-to-date"})
    recorder.provider.terminate_nodes([node])
    seen = set()
    for action, asked in recorder.requests:
        seen.add(action)
        context: dict[str, str] = dict(OURS)
        if action == "RunInstances":
            (tags,) = (each["Tags"] for each in asked["TagSpecifications"])
            context = {f"aws:RequestTag/{each['Key']}": each["Value"] for each in tags}
            context |= {
                "ec2:InstanceType": asked["InstanceType"],
                "ec2:MetadataHttpTokens": asked["MetadataOptions"]["HttpTokens"],
            }
            tagging = {"ec2:CreateAction": "RunInstances"}
            assert is_allowed(HEAD, "ec2:CreateTags", INSTANCE, tagging)
            assert {each["ResourceType"] for each in asked["TagSpecifications"]} == {"instance"}
        resource = "*" if action.startswith("Describe") else INSTANCE
        assert is_allowed(HEAD, f"ec2:{action}", resource, context), (action, context)
    assert seen == {"DescribeInstances", "RunInstances", "CreateTags", "TerminateInstances"}
    for kind in MADE_OF:
        assert may("RunInstances", f"arn:aws:ec2:us-east-1:123456789012:{kind}/x-1")
    assert may("RunInstances", "arn:aws:ec2:us-east-1::image/ami-1")
    worker = {"iam:PassedToService": "ec2.amazonaws.com"}
    assert is_allowed(HEAD, "iam:PassRole", "arn:aws:iam::123456789012:role/drcnn-worker", worker)


def test_the_head_cannot_touch_machines_of_others() -> None:
    theirs = {"aws:ResourceTag/ray-cluster-name": "theirs"}
    for context in ({}, theirs):
        assert not may("TerminateInstances", **context)
        # Nor make them its own first.
        assert not may("CreateTags", **context, **{"aws:RequestTag/ray-cluster-name": "drcnn"})
        assert not may("CreateTags", **context, **{"ec2:CreateAction": "CreateVolume"})
    assert may("TerminateInstances", **OURS)


@pytest.mark.parametrize(
    "changes",
    [
        {"ec2:InstanceType": "p5.48xlarge"},
        {"ec2:MetadataHttpTokens": "optional"},
        {"aws:RequestTag/ray-cluster-name": "theirs"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_the_head_starts_no_other_machines(changes: dict[str, str]) -> None:
    assert may("RunInstances", **started())
    assert not may("RunInstances", **started(**changes))


def test_the_head_gives_no_other_role() -> None:
    to_ec2 = {"iam:PassedToService": "ec2.amazonaws.com"}
    for role in ("admin", "drcnn-head"):
        assert not is_allowed(HEAD, "iam:PassRole", f"arn:aws:iam::123456789012:role/{role}", to_ec2)


def test_nodes_read_and_write_one_bucket_and_cannot_remove_it() -> None:
    for action in ("GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload"):
        assert is_allowed(BUCKET, f"s3:{action}", "arn:aws:s3:::MY-BUCKET/studies/a", {})
        assert not is_allowed(BUCKET, f"s3:{action}", "arn:aws:s3:::OTHER/studies/a", {})
    assert is_allowed(BUCKET, "s3:ListBucket", "arn:aws:s3:::MY-BUCKET", {})
    assert not is_allowed(BUCKET, "s3:DeleteBucket", "arn:aws:s3:::MY-BUCKET", {})
    assert not is_allowed(BUCKET, "ec2:RunInstances", INSTANCE, started())


def statements(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text()).get("Statement", [])
    return found


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_the_rights_are_listed_one_by_one(path: Path) -> None:
    for statement in statements(path):
        actions = statement["Action"]
        listed = [actions] if isinstance(actions, str) else actions
        assert not [name for name in listed if "*" in name]


@pytest.mark.usefixtures("aws")
def test_unfinished_uploads_are_removed_from_the_bucket() -> None:
    import boto3

    s3 = boto3.client("s3", region_name="us-east-1")
    s3.create_bucket(Bucket="studies")
    rules = json.loads((CLUSTER / "aws/lifecycle.json").read_text())
    s3.put_bucket_lifecycle_configuration(Bucket="studies", LifecycleConfiguration=rules)
    (rule,) = s3.get_bucket_lifecycle_configuration(Bucket="studies")["Rules"]
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 2}
    # And no finished one.
    assert not {"Expiration", "NoncurrentVersionExpiration", "Transitions"} & set(rule)
