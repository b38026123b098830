"""Where figures come from: the code, its commit and changes, and the versions of what ran it.

A cluster has the code without its git folder. There the commit and the changes come from a file that this
makes at home, in the root of the checkout, before the code is sent:

    python -m studies.record.provenance
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import yaml

from drcnn.files import write_text
from studies.definition.plan import Plan

__all__ = ["code", "commit", "environment", "git_diff", "installed_versions", "keep", "tags", "texts"]

CHECKOUT = Path(__file__).resolve().parents[2]
# Not hidden from `git status`: what git ignores is not sent to a cluster.
KEPT = "provenance.json"
PACKAGES, SUFFIXES = ("drcnn", "studies"), {".py", ".yaml", ".csv"}


def tags() -> dict[str, str]:
    """What the code is, and its commit, as MLflow's pages show it, if that is known."""
    commit = _commit()
    return {"drcnn.code": code(), **({"mlflow.source.git.commit": commit} if commit else {})}


def commit() -> str:
    """The commit, and whether the code differs from it; empty if it is not known."""
    known = _commit()[:10]
    return f"{known} with changes (code {code()})" if known and git_diff() else known


def texts(plan: Plan) -> dict[str, str]:
    """What a study's figures come from, as files by name: its definition and base, packages, changes."""
    study = plan.study.model_dump(mode="json", exclude_defaults=True)
    return {
        "study.yaml": yaml.safe_dump(study, sort_keys=False),
        "base.yaml": plan.base.to_yaml(),
        "environment.txt": environment(),
        "git.diff": git_diff(),
    }


def git_diff() -> str:
    """What differs from its commit in tracked files of the code; empty if nothing, or not known."""
    diff = _git("diff", "HEAD", "--", *PACKAGES)
    return _kept().get("diff", "") if diff is None else diff


def code() -> str:
    """16 hex digits of all code, study files and tables, wherever they lie."""
    digest = hashlib.sha256()
    paths = (path for package in PACKAGES for path in (CHECKOUT / package).rglob("*"))
    for path in sorted(path for path in paths if path.suffix in SUFFIXES):
        name, content = path.relative_to(CHECKOUT).as_posix(), path.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def environment() -> str:
    """The platform and every installed distribution, one a line as pip would print them."""
    found = {f"{item.metadata['Name']}=={item.version}" for item in metadata.distributions()}
    head = [f"# python {platform.python_version()}", f"# {platform.platform()}"]
    return "\n".join([*head, *sorted(found, key=str.lower)]) + "\n"


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that must be the same on all nodes, if installed."""
    versions = {"python": platform.python_version()}
    for name in ("ray", "torch", "torchvision"):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def keep() -> str:
    """Write the file for where there is no git folder; returns the commit."""
    kept = {"code": code(), "commit": _commit(), "diff": git_diff()}
    write_text(CHECKOUT / KEPT, json.dumps(kept, indent=1))
    return kept["commit"]


def _commit() -> str:
    commit = _git("rev-parse", "HEAD")
    return _kept().get("commit", "") if commit is None else commit.strip()


def _kept() -> dict[str, str]:
    """What was kept of this very code; nothing if it has changed since."""
    try:
        kept: dict[str, str] = json.loads((CHECKOUT / KEPT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if kept.get("code") == code() else {}


def _git(*arguments: str) -> str | None:
    if not (CHECKOUT / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


if __name__ == "__main__":
    print(f"{KEPT}: commit {keep() or 'unknown: no git folder here'}")
