"""What the tests of stores share: a folder, and a bucket of a real server of S3's API."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """URI of a bucket of a real server of S3's API."""
    boto3 = pytest.importorskip("boto3")
    server_of = pytest.importorskip("moto.server").ThreadedMotoServer
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = server_of(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    keys = {"aws_access_key_id": "me", "aws_secret_access_key": "mine", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **keys).create_bucket(Bucket="bucket")
    yield f"s3://me:mine@bucket/PREFIX?region=us-east-1&scheme=http&endpoint_override=127.0.0.1:{port}"
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return f"file://{tmp_path / 'store'}"
    found: str = request.getfixturevalue("bucket").replace("PREFIX", tmp_path.name)
    return found
