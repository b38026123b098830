"""``OUTPUT/<study>/request.json``: what the last launch of a study was asked for, kept for reports."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drcnn.files import write_text
from studies.definition.errors import StudyError
from studies.definition.plan import Plan
from studies.definition.request import Request

__all__ = ["keep_request", "load_request", "was_launched"]

FILE = "request.json"


def keep_request(plan: Plan, request: Request) -> None:
    """Remember what a launch was asked for."""
    # Addresses may hold passwords, and a report does not need them.
    content = asdict(request) | {"output": str(plan.output), "tracking_uri": None, "storage": None}
    if "@" in request.source:
        content["source"] = plan.base.data.source  # where the data were downloaded to
    if request.study.endswith((".yaml", ".yml")):
        content["study"] = str(Path(request.study).resolve())
    write_text(plan.folder / FILE, json.dumps(content, indent=1))


def was_launched(plan: Plan) -> bool:
    """Whether this output folder knows of a launch of the study."""
    return (plan.folder / FILE).exists()


def load_request(study: str, output: Path) -> Request:
    """Read what the last launch of a study in an output folder was asked for.

    What concerns that launch only, such as its machines, is left at its default.

    Raises:
        StudyError: this folder holds no launch of the study.
    """
    try:
        content: dict[str, Any] = json.loads((output / study / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = ", ".join(sorted(path.parent.name for path in output.glob(f"*/{FILE}"))) or "none"
        raise StudyError(f"report {study}: {output} holds no launch of it; those it holds: {known}") from None
    kept = ("study", "profile", "source", "seeds", "on_bad_data", "smoke")
    return Request(
        **{name: content[name] for name in kept},
        output=output,
        assignments=tuple(content["assignments"]),
    )
