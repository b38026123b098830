"""An AWS account on this machine as cluster/README.md makes it, and gpu.yaml as ``ray up`` has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import moto
import pytest
import yaml
from ray.autoscaler._private.aws import config as aws_config
from ray.autoscaler._private.aws import utils as aws_utils
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.util import prepare_config

__all__ = ["CLUSTER", "REGION", "aws", "bootstrapped"]

CLUSTER = Path(__file__).parents[2] / "cluster"
REGION = "us-east-1"


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An account, and a home without keys."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    with moto.mock_aws(), pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("HOME", str(home))
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.delenv(name, raising=False)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "simulated")
        _forget()
        iam = boto3.client("iam", region_name=REGION)
        for name in ("drcnn-head", "drcnn-worker"):
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=(CLUSTER / "aws/trust.json").read_text())
            iam.create_instance_profile(InstanceProfileName=name)
            iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
        yield
    _forget()


def _forget() -> None:
    """Ray keeps its clients for as long as the process lives."""
    for cached in (aws_utils.resource_cache, aws_utils.client_cache, aws_config._get_subnets_or_die):
        cached.cache_clear()


def bootstrapped(**provider: Any) -> dict[str, Any]:
    """gpu.yaml with an image that exists, as ``ray up`` has it before it starts the head.

    Args:
        provider: what is changed in its section ``provider``.
    """
    images = boto3.client("ec2", region_name=REGION).describe_images(Owners=["amazon"])["Images"]
    text = (CLUSTER / "gpu.yaml").read_text().replace("ami-00000000000000000", images[0]["ImageId"])
    given = yaml.safe_load(text)
    given["provider"] |= provider
    config: dict[str, Any] = _bootstrap_config(prepare_config(given), no_config_cache=True)
    return config
