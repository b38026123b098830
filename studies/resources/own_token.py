"""Keeps strangers out of the Ray that a launch starts for itself."""

from __future__ import annotations

import os
import secrets
import sys

__all__ = ["require_own_token"]


def require_own_token() -> None:
    """Have the local Ray talk only to processes that know this launch's token: its own.

    Ray listens on all interfaces, and runs what it is sent; whoever reaches its ports could run code here. It
    reads the environment when it is imported, so this has to come before; afterwards nothing is changed. The
    token is in the environment of processes of this user only, never among their arguments.
    """
    if "ray" not in sys.modules:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        os.environ.pop("RAY_AUTH_TOKEN_PATH", None)
