"""``OUTPUT/<study>/request.json``: what the last launch of a study was asked for, kept for reports."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drcnn.data.formats.folders import joined_folders
from drcnn.files import write_text
from studies.definition.errors import StudyError
from studies.definition.metrics import MARGIN
from studies.definition.plan import Plan
from studies.definition.request import Request, budget_text

__all__ = ["as_typed", "keep_request", "launch_command", "load_request", "mark_downloaded", "was_launched"]

FILE = "request.json"
# In a study's folder that a report has downloaded: the store's may be newer. Stores ignore dot files.
DOWNLOADED = ".downloaded"


def keep_request(plan: Plan, request: Request) -> None:
    """Remember what a launch was asked for."""
    # Addresses may hold passwords, and a report does not need them.
    content = asdict(request) | {"output": str(plan.output), "tracking_uri": None, "storage": None}
    if "@" in request.source:
        content["source"] = plan.base.data.source
    if request.study.endswith((".yaml", ".yml")):
        content["study"] = str(Path(request.study).resolve())
    # Where the data lie on this machine: a report finds them there when their store has changed or is away.
    content["local_source"] = plan.base.data.source
    write_text(plan.folder / FILE, json.dumps(content, indent=1))
    (plan.folder / DOWNLOADED).unlink(missing_ok=True)


def was_launched(folder: Path) -> bool:
    """Whether the study whose folder this is was launched here, so that the store knows nothing newer."""
    return (folder / FILE).exists() and not (folder / DOWNLOADED).exists()


def mark_downloaded(folder: Path) -> None:
    """Remember that a study's folder is a copy of the store's, to be downloaded again when it is needed."""
    (folder / DOWNLOADED).touch()


def load_request(study: str, output: Path) -> Request:
    """Read what the last launch of a study in an output folder was asked for.

    What concerns that launch only, such as its machines, is left at its default.

    Raises:
        StudyError: this folder holds no launch of the study.
    """
    try:
        content = _read(output / study)
    except (OSError, ValueError):
        known = ", ".join(sorted(path.parent.name for path in output.glob(f"*/{FILE}"))) or "none"
        raise StudyError(f"{output} holds no launch of {study}; it holds: {known}") from None
    kept = ("study", "profile", "seeds", "on_bad_data", "smoke")
    return Request(
        **{name: content[name] for name in kept},
        # Earlier versions had none.
        margin=content.get("margin", MARGIN),
        output=output,
        # Launches of earlier versions had none.
        budget=content.get("budget"),
        source=_source(content),
        assignments=tuple(content["assignments"]),
        weights=tuple(content.get("weights", ())),
    )


def launch_command(plan: Plan) -> str:
    """The command of the last launch: what decides results, and nothing that may hold a password."""
    try:
        request = _read(plan.output / plan.name)
    except (OSError, ValueError):
        return f"python studies/run_study.py {shlex.quote(plan.name)} --profile {plan.profile}"
    words = ["python", "studies/run_study.py", request["study"], "--profile", request["profile"]]
    words += ["--data", request["source"], "--output", as_typed(plan.output)]
    words += ["--set", *request["assignments"]] if request["assignments"] else []
    words += ["--weights", *request["weights"]] if request.get("weights") else []
    words += ["--seeds", str(request["seeds"])] if request["seeds"] else []
    words += ["--budget", budget_text(request["budget"])] if request.get("budget") else []
    words += ["--margin", f"{request['margin']:g}"] if request.get("margin", MARGIN) != MARGIN else []
    words += ["--workers-per-trial", str(request["workers"])] if request["workers"] > 1 else []
    words += ["--on-bad-data", "skip"] if request["on_bad_data"] == "skip" else []
    words += ["--smoke"] if request["smoke"] else []
    return shlex.join(words)


def as_typed(path: Path) -> str:
    """A path as it would be typed here: without what leads to the current folder."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _source(content: dict[str, Any]) -> str:
    """The data where they were for the launch, if they are there still; else as they were given."""
    local: str = content.get("local_source", content["source"])
    folders = joined_folders(local.partition(":")[2])
    return local if all(Path(folder).exists() for folder in folders) else str(content["source"])


def _read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return content
