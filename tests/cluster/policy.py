"""What IAM makes of a policy, as far as cluster/aws/*.json use its language; moto does not read conditions.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["is_allowed"]


def is_allowed(policy: Path, action: str, resource: str, context: Mapping[str, str]) -> bool:
    """Whether a policy allows one action on one resource.

    Args:
        policy: a file of statements that allow.
        action: such as ``ec2:RunInstances``.
        resource: its ARN.
        context: the keys that AWS sends along, such as ``aws:ResourceTag/Name``; one that is not there
            matches no condition.
    """
    statements = json.loads(policy.read_text())["Statement"]
    return any(_allows(statement, action, resource, context) for statement in statements)


def _allows(statement: Mapping[str, Any], action: str, resource: str, context: Mapping[str, str]) -> bool:
    assert statement["Effect"] == "Allow"
    assert set(statement) <= {"Sid", "Effect", "Action", "Resource", "Condition"}
    return (
        _is_one_of(action, statement["Action"])
        and _is_one_of(resource, statement["Resource"])
        and all(
            key in context and _meets(operator, context[key], wanted)
            for operator, keys in statement.get("Condition", {}).items()
            for key, wanted in keys.items()
        )
    )


def _meets(operator: str, value: str, wanted: str | list[str]) -> bool:
    assert operator == "StringEquals", f"{operator}: not known to this checker"
    return value in ([wanted] if isinstance(wanted, str) else wanted)


def _is_one_of(value: str, patterns: str | list[str]) -> bool:
    found = [patterns] if isinstance(patterns, str) else patterns
    return any(fnmatch.fnmatchcase(value, pattern) for pattern in found)
