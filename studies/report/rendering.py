"""From templates to the report's Markdown.

A template holds the report's words. A value that it prints, such as a path or an error, is other people's
text and must not be read as markup: so Jinja's autoescape is on, with Markdown's escapes in place of HTML's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from drcnn.report.blocks import code, escape, sentence
from studies.definition.labels import parameter_name
from studies.definition.metrics import points

__all__ = ["render_markdown"]

_TEMPLATES = FileSystemLoader(Path(__file__).with_name("templates"))


def render_markdown(template: str, **facts: Any) -> str:
    """Fill a template in and put every paragraph on a line of its own, however the template is wrapped."""
    environment = Environment(
        loader=_TEMPLATES,
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else escape(str(value)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "code": code,
        "listed": _listed,
        "parameter": parameter_name,
        "points": points,
        "sentence": sentence,
    }
    text = environment.get_template(template).render(facts)
    return "\n\n".join(map(_unwrap, re.split(r"\n\s*\n", text.strip()))) + "\n"


def _unwrap(block: str) -> str:
    if block.startswith(("|", "```")):
        return block
    return re.sub(r"\s*\n\s*(?!- )", " ", block)


def _listed(words: Sequence[str], last: str = "and") -> str:
    """A list in words, such as 'a, b and c'."""
    *others, final = words
    return f"{', '.join(others)} {last} {final}" if others else final
