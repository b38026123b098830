"""Where figures come from: the code's commit and changes, and the versions of what ran it."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

__all__ = ["environment", "git_diff", "tags"]

CHECKOUT = Path(__file__).resolve().parents[1]


def tags() -> dict[str, str]:
    """The checkout's commit, as MLflow's pages show it; empty where the code is in no git checkout."""
    commit = (_git("rev-parse", "HEAD") or "").strip()
    return {"mlflow.source.git.commit": commit} if commit else {}


def git_diff() -> str:
    """What differs from its commit in tracked files; empty if nothing."""
    return _git("diff", "HEAD") or ""


def environment() -> str:
    """The platform and every installed distribution, one a line as pip would print them."""
    found = {f"{item.metadata['Name']}=={item.version}" for item in metadata.distributions()}
    head = [f"# python {platform.python_version()}", f"# {platform.platform()}"]
    return "\n".join([*head, *sorted(found, key=str.lower)]) + "\n"


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
