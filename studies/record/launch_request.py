"""``OUTPUT/<study>/request.json``: what the last launch of a study was asked for, kept for reports."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drcnn.data.formats.folders import joined_folders
from drcnn.sealed import DamagedFileError, read_sealed, write_sealed
from studies.definition.errors import StudyError
from studies.definition.metrics import MARGIN
from studies.definition.plan import Plan
from studies.definition.request import Request, budget_text

__all__ = [
    "REQUEST",
    "as_typed",
    "keep_request",
    "launch_command",
    "load_request",
    "mark_downloaded",
    "was_launched",
]

REQUEST = "request.json"
# In a study's folder that a report has downloaded: the store's may be newer. Stores ignore dot files.
DOWNLOADED = ".downloaded"
KEPT = ("study", "profile", "seeds", "on_bad_data", "smoke")


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
    write_sealed(plan.folder / REQUEST, content)
    (plan.folder / DOWNLOADED).unlink(missing_ok=True)


def was_launched(folder: Path) -> bool:
    """Whether the study whose folder this is was launched here, so that the store knows nothing newer."""
    return (folder / REQUEST).exists() and not (folder / DOWNLOADED).exists()


def mark_downloaded(folder: Path) -> None:
    """Remember that a study's folder is a copy of the store's, to be downloaded again when it is needed."""
    (folder / DOWNLOADED).touch()


def load_request(study: str, output: Path) -> Request:
    """Read what the last launch of a study in an output folder was asked for.

    What concerns that launch only, such as its machines, is left at its default.

    Raises:
        StudyError: this folder holds no launch of the study, or what it was asked for is damaged.
    """
    try:
        content = _read(output / study)
    except DamagedFileError as error:
        raise StudyError(f"{error}; give the study's command again, which writes it anew") from None
    except OSError:
        known = ", ".join(sorted(path.parent.name for path in output.glob(f"*/{REQUEST}"))) or "none"
        raise StudyError(f"{output} holds no launch of {study}; it holds: {known}") from None
    return Request(
        **{name: content[name] for name in KEPT},
        # Earlier versions had none.
        margin=content.get("margin", MARGIN),
        price=content.get("price"),
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
    except (OSError, DamagedFileError):
        return f"python studies/run_study.py {shlex.quote(plan.name)} --profile {plan.profile}"
    words = ["python", "studies/run_study.py", request["study"], "--profile", request["profile"]]
    words += ["--data", request["source"], "--output", as_typed(plan.output)]
    words += ["--set", *request["assignments"]] if request["assignments"] else []
    words += ["--weights", *request["weights"]] if request.get("weights") else []
    words += ["--seeds", str(request["seeds"])] if request["seeds"] else []
    words += ["--budget", budget_text(request["budget"])] if request.get("budget") else []
    words += ["--margin", f"{request['margin']:g}"] if request.get("margin", MARGIN) != MARGIN else []
    words += ["--price", f"{request['price']:g}"] if request.get("price") else []
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
    content = read_sealed(folder / REQUEST)
    if missing := [name for name in (*KEPT, "source", "assignments") if name not in content]:
        raise DamagedFileError(f"{folder / REQUEST} is damaged: it has no {', '.join(missing)}")
    return content
