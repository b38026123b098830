"""Which of Google's errors mean that there is no such machine now."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ray.autoscaler.node_launch_exception import NodeLaunchException

pytest.importorskip("googleapiclient", reason="needs: pip install '.[cluster]'")

from googleapiclient.errors import HttpError
from httplib2 import Response
from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider

from studies.machines.gcp_nodes import GcpNodes

SPOT = {"scheduling": {"provisioningModel": "SPOT"}}
PROVIDER: dict[str, Any] = {"offers": {"gpu": [SPOT, {}]}}
TAGS = {"ray-user-node-type": "gpu"}


def failed(code: str) -> Exception:
    """What Ray raises around an operation that Google gave up."""
    return Exception({"errors": [{"code": code, "message": "..."}]})


def answered(reason: str, message: str) -> Exception:
    """What Google's client raises where the request itself is refused."""
    details = {"message": message, "domain": "usageLimits", "reason": reason}
    content = json.dumps({"error": {"code": 403, "message": message, "errors": [details]}})
    return HttpError(Response({"status": "403", "content-type": "application/json"}), content.encode())


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> list[Exception | None]:
    """What Google answers to each request, in this order: an error, or None for a node."""
    answers = list[Exception | None]()

    def create(self: Any, config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        assert (tags, count) == (TAGS, 1)
        error = answers.pop(0)
        if error:
            raise error
        return {f"node{len(answers)}": config}

    monkeypatch.setattr(GCPNodeProvider, "__init__", lambda self, config, name: None)
    monkeypatch.setattr(GCPNodeProvider, "create_node", create)
    return answers


@pytest.mark.parametrize(
    "code", ["ZONE_RESOURCE_POOL_EXHAUSTED", "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "QUOTA_EXCEEDED"]
)
def test_where_spot_is_exhausted_the_next_offer_is_taken(google: list[Exception | None], code: str) -> None:
    google += [failed(code), None, None]
    assert GcpNodes(PROVIDER, "drcnn").create_node({"machineType": "g2"}, TAGS, 2) == {
        "node1": {"machineType": "g2"},
        "node0": {"machineType": "g2"} | SPOT,
    }


def test_a_quota_that_refuses_the_request_itself_is_a_refusal(google: list[Exception | None]) -> None:
    full = "Quota 'GPUS_ALL_REGIONS' exceeded.  Limit: 0.0 globally."
    google += [answered("quotaExceeded", full), None]
    assert GcpNodes(PROVIDER, "drcnn").create_node({"machineType": "g2"}, TAGS, 1) == {
        "node0": {"machineType": "g2"}
    }
    google += [answered("forbidden", "Required 'compute.instances.create' permission")]
    with pytest.raises(HttpError, match="permission"):
        GcpNodes(PROVIDER, "drcnn").create_node({}, TAGS, 1)
    google += [answered("rateLimitExceeded", "Rate Limit Exceeded")]
    with pytest.raises(HttpError, match="Rate Limit"):
        GcpNodes(PROVIDER, "drcnn").create_node({}, TAGS, 1)


def test_all_refusals_are_named(google: list[Exception | None]) -> None:
    google += [failed("ZONE_RESOURCE_POOL_EXHAUSTED"), failed("QUOTA_EXCEEDED")]
    with pytest.raises(NodeLaunchException, match=r"g2 on spot: ZONE_RES.*; g2 on demand: QUOTA_EXCEEDED"):
        GcpNodes(PROVIDER, "drcnn").create_node({"machineType": "zones/a/machineTypes/g2"}, TAGS, 1)


def test_a_right_that_is_missing_is_no_refusal(google: list[Exception | None]) -> None:
    google += [failed("PERMISSION_DENIED")]
    with pytest.raises(Exception, match="PERMISSION_DENIED"):
        GcpNodes(PROVIDER, "drcnn").create_node({}, TAGS, 1)
