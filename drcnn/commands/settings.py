"""``drcnn settings``: every setting with its default and its meaning, from the configuration itself."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from drcnn.commands.options import SubCommands
from drcnn.config import Config
from drcnn.presets import PRESETS
from drcnn.recipes import recipe

__all__ = ["Setting", "add", "markdown", "settings"]

INTRODUCTION = """# Settings

Every setting of a trial, as `drcnn/config_sections.py` defines it: `--set KEY=VALUE` changes it in `drcnn
train` and in every trial of a study; a study file varies it. The default is the paper's on PASCAL
VOC; the laptop profile has its own for digits and for photographs. A study file may have others.
`drcnn settings --markdown` makes this page.

"""
LAPTOP = {"laptop, digits": "digits", "laptop, photographs": "voc:DIR"}


@dataclass(frozen=True)
class Setting:
    """One setting: its dotted key, its default, what else it may be (where that is a list), what it does."""

    key: str
    default: Any
    choices: tuple[Any, ...]
    meaning: str


def settings() -> list[Setting]:
    """Return every setting, in the order of ``drcnn.config_sections``."""
    return list(_settings(Config, ""))


def _settings(model: type[BaseModel], group: str) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _settings(field.annotation, f"{name}.")
        else:
            key = f"{group}{name}"
            yield Setting(key, field.default, _choices(key, field), field.description or "")


def _choices(key: str, field: FieldInfo) -> tuple[Any, ...]:
    named = tuple(PRESETS.get(key, ()))
    own = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    return tuple(dict.fromkeys((*own, *named)))


def add(commands: SubCommands[argparse.ArgumentParser]) -> None:
    """Add the verb, with its options."""
    parser = commands.add_parser(
        "settings",
        help="list every setting, with its default and its meaning",
        epilog="example: drcnn settings nms split",
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="only those whose key holds a WORD")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--markdown", action="store_true", help="as docs/settings.md has them, with the profiles"
    )
    form.add_argument("--json", action="store_true")
    parser.set_defaults(run=_show)


def _show(options: argparse.Namespace) -> int:
    words = options.words
    listed = [each for each in settings() if not words or any(word in each.key for word in words)]
    if options.json:
        print(json.dumps([asdict(each) for each in listed]))
    elif options.markdown:
        print(markdown(listed), end="")
    else:
        for each in listed:
            print(f"{each.key}={_shown(each.default)}\n    {_meaning(each)}")
    return 0 if listed else 1


def markdown(listed: list[Setting]) -> str:
    """Return a page with a table of settings, and what the laptop profile has in place of each default."""
    profiles = {name: recipe("laptop", source) for name, source in LAPTOP.items()}
    names = ["setting", "default", *profiles, "meaning"]
    head = f"| {' | '.join(names)} |\n|{' :-- |' * len(names)}\n"
    rows = (
        f"| `{each.key}` | {_code(each.default)} | "
        + "".join(f"{_code(own[each.key]) if each.key in own else ''} | " for own in profiles.values())
        + f"{_meaning(each)} |\n"
        for each in listed
    )
    return INTRODUCTION + head + "".join(rows)


def _meaning(setting: Setting) -> str:
    allowed = f" ({', '.join(map(_shown, setting.choices))})" if setting.choices else ""
    return f"{setting.meaning}{allowed}"


def _code(value: Any) -> str:
    return f"`{_shown(value)}`"


def _shown(value: Any) -> str:
    """A value as ``--set`` takes it."""
    if isinstance(value, tuple):
        return f"[{','.join(map(_shown, value))}]"
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
