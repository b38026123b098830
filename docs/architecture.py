"""Draws the architecture in README.md from the imports that the code really has.

    python docs/architecture.py           print the figure (Mermaid)
    python docs/architecture.py --write   put it into README.md

An arrow means "imports". Arrows that follow from others are left out.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
BEGIN, END = "<!-- architecture: python docs/architecture.py --write -->", "<!-- end of architecture -->"
# What each part is, in the order in which a study meets them.
PARTS = {
    "run_study": "run_study.py<br/>the command line",
    "execution": "execution<br/>one launch: Tune, Train, progress",
    "report": "report<br/>tables, pictures, words",
    "search": "search<br/>Optuna",
    "resources": "resources<br/>nodes, slots, throughput",
    "analysis": "analysis<br/>statistics, claims",
    "transfer": "transfer<br/>object store and nodes",
    "record": "record<br/>output folder, MLflow",
    "definition": "definition<br/>study, overrides, trials",
    "cli": "drcnn.cli<br/>one run without a study",
    "engine": "drcnn.engine<br/>training, evaluation, records",
    "detector": "drcnn.detector<br/>backbones, RPN, heads",
    "data": "drcnn.data<br/>annotations, readers, loader",
    "config": "drcnn.config, variants, recipes",
}


def part_of(module: str) -> str | None:
    """The part of the figure that a module belongs to; none for other packages."""
    package, _, rest = module.partition(".")
    name = rest.partition(".")[0]
    if package == "studies":
        return name if name in PARTS else None
    if package == "drcnn":
        name = "cli" if name == "commands" else name
        return name if name in {"cli", "engine", "detector", "data"} else "config"
    return None


def imports(path: Path) -> Iterator[str]:
    """The modules that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def arrows() -> set[tuple[str, str]]:
    """Which part imports which, directly."""
    pairs = set()
    for package in ("studies", "drcnn"):
        for path in (ROOT / package).rglob("*.py"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            source = part_of(module)
            for target in map(part_of, imports(path)):
                if source and target and source != target:
                    pairs.add((source, target))
    return pairs


def reduced(pairs: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """The arrows that do not follow from others."""

    def reachable(start: str, without: tuple[str, str]) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            part = waiting.pop()
            for source, target in pairs:
                if source == part and (source, target) != without and target not in seen:
                    seen.add(target)
                    waiting.append(target)
        return seen

    order = list(PARTS)
    kept = [pair for pair in pairs if pair[1] not in reachable(pair[0], without=pair)]
    return sorted(kept, key=lambda pair: (order.index(pair[0]), order.index(pair[1])))


def figure() -> str:
    """The figure as a Mermaid code block."""
    lines = ["```mermaid", "flowchart TD"]
    lines += [f'    {name}["{label}"]' for name, label in PARTS.items()]
    lines += [f"    {source} --> {target}" for source, target in reduced(arrows())]
    return "\n".join([*lines, "```"])


def updated(readme: str) -> str:
    """The README's text with the figure of today."""
    before, _, rest = readme.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n{figure()}\n\n{END}{after}"


def main() -> None:
    """Print the figure, or write it into README.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="put it into README.md")
    if parser.parse_args().write:
        README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(figure())


if __name__ == "__main__":
    main()
