"""What the tests of stores share: a folder, and a bucket of a real server of S3's API."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """The port of a real server of S3's API."""
    server_of = pytest.importorskip("moto.server").ThreadedMotoServer
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = server_of(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    yield port
    server.stop()


@pytest.fixture
def bucket(s3_port: int) -> str:
    """URI of a bucket, which is made anew if a test of a simulated AWS has reset all that moto knows."""
    address = f"127.0.0.1:{s3_port}"
    keys = {"aws_access_key_id": "me", "aws_secret_access_key": "mine", "region_name": "us-east-1"}
    boto3 = pytest.importorskip("boto3")
    boto3.client("s3", endpoint_url=f"http://{address}", **keys).create_bucket(Bucket="bucket")
    return f"s3://me:mine@bucket/PREFIX?region=us-east-1&scheme=http&endpoint_override={address}"


@pytest.fixture(params=["folder", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return f"file://{tmp_path / 'store'}"
    found: str = request.getfixturevalue("bucket").replace("PREFIX", tmp_path.name)
    return found
