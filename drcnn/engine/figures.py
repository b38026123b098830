"""The output of ``drcnn complexity`` and ``drcnn bench`` as text and JSON."""

from __future__ import annotations

import textwrap
from typing import Any

from drcnn.engine.complexity import Complexity, ComplexityRow

__all__ = ["as_json", "bench_table", "paper_table", "parts_table"]

WIDTH = 80


def as_json(complexity: Complexity) -> dict[str, Any]:
    """Totals and parts."""
    parts = [{"part": part.name, "flops": part.flops, "params": part.params} for part in complexity.parts]
    return {"flops": complexity.flops, "params": complexity.params, "parts": parts}


def parts_table(complexity: Complexity) -> str:
    """One line per part, then the sum."""
    lines = [f"{'':24}{'GFLOPs':>10}{'params (M)':>12}"]
    lines += [f"{part.name:24}{part.flops / 1e9:10.2f}{part.params / 1e6:12.2f}" for part in complexity.parts]
    return "\n".join([*lines, f"{'all':24}{complexity.flops / 1e9:10.2f}{complexity.params / 1e6:12.2f}"])


def paper_table(rows: list[ComplexityRow]) -> str:
    """Our count beside the paper's; rows that differ in the printed digits are marked."""
    head = ("table", "backbone", "variant", "GFLOPs", "paper", "params (M)", "paper", "")
    lines = [_line(head)]
    for row in rows:
        mark = "" if row.gflops_agree and row.params_agree else "differs"
        if mark and row.is_misprint and row.params_agree:
            mark = "GFLOPs misprinted in the paper (it contradicts its own other rows)"
        lines.append(
            _line(
                (
                    row.table,
                    row.backbone,
                    row.variant,
                    row.gflops,
                    row.printed_gflops,
                    row.params,
                    row.printed_params,
                    mark,
                )
            )
        )
    gflops, params = sum(row.gflops_agree for row in rows), sum(row.params_agree for row in rows)
    return "\n".join([*lines, f"to the printed digit: {gflops} of {len(rows)} GFLOPs, {params} parameters"])


def _line(cells: tuple[str, ...]) -> str:
    table, backbone, variant, gflops, printed_gflops, params, printed_params, mark = cells
    figures = f"{gflops:>9}{printed_gflops:>9}{params:>12}{printed_params:>9}"
    return f"{table:6}{backbone:18}{variant:22}{figures}  {mark}".rstrip()


def bench_table(result: dict[str, Any]) -> str:
    """Speeds, ratios and limits in 80 columns, then the time spent in each part."""
    setting = result["setting"]
    lines = [
        f"{setting['backbone']}, {setting['images']} images of {setting['height']}x{setting['width']}, "
        f"{setting['precision']}, {setting['device']}, {setting['threads']} threads, "
        f"torch {setting['torch']}",
        f"proposals per image with a class above {setting['score_thr']}: "
        f"{setting['proposals above score_thr']:.0f}",
        "",
        f"{'':22}{'training step':^29}{'inference':^29}",
        f"{'':22}" + f"{'s':>7}{'/ tv':>7}{'/ fpn':>7}{'limit':>8}" * 2,
    ]
    for name, summary in result["detectors"].items():
        cells = "".join(
            f"{speed['seconds']:7.2f}{speed['of_torchvision']:7.2f}{speed['of_fpn']:7.2f}"
            f"{speed['limit_seconds']:8.2f}"
            for speed in (summary["train"], summary["inference"])
        )
        lines.append(f"{name:22}{cells}")
    agreement = setting["detections that agree with fpn's"]
    shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in agreement.items())
    lines += [
        "",
        f"{'around fpn':26}{'images/s':>10}{'s':>8}",
        *(
            f"{name:26}{speed['images_per_s']:10.1f}{speed['seconds']:8.2f}"
            for name, speed in result["loop"].items()
        ),
        "",
        f"detections of fpn and of its peers that the other has too: {shares}",
        "/ tv: of torchvision's time; / fpn: of our fpn's. limit: seconds of the convolutions and matrix "
        "products alone, at the speed of one 3x3 convolution measured here.",
    ]
    for name, parts in result["parts"].items():
        for kind in ("train", "inference"):
            for measured in (kind, f"{kind} operators"):
                shares = ", ".join(f"{part} {spent:.3f}" for part, spent in parts[measured].items())
                if shares:
                    lines += ["", f"{name}, {measured} (seconds): {shares}"]
    return "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in lines)
