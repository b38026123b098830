"""What ``drcnn complexity`` and ``drcnn bench`` print."""

from __future__ import annotations

from typing import Any

from drcnn.engine.complexity import Complexity, PaperRow

__all__ = ["as_json", "bench_table", "paper_table", "parts_table"]


def as_json(found: Complexity) -> dict[str, Any]:
    """Totals and parts."""
    parts = [{"part": part.name, "flops": part.flops, "params": part.params} for part in found.parts]
    return {"flops": found.flops, "params": found.params, "parts": parts}


def parts_table(found: Complexity) -> str:
    """A line a part, then the sum."""
    lines = [f"{'':24}{'GFLOPs':>10}{'params (M)':>12}"]
    lines += [f"{part.name:24}{part.flops / 1e9:10.2f}{part.params / 1e6:12.2f}" for part in found.parts]
    return "\n".join([*lines, f"{'all':24}{found.flops / 1e9:10.2f}{found.params / 1e6:12.2f}"])


def paper_table(rows: list[PaperRow]) -> str:
    """Our count beside the paper's; what differs to the printed digit is marked."""
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
    """Speeds and ratios, then where the time goes."""
    setting = result["setting"]
    lines = [
        f"{setting['backbone']}, {setting['images']} images of {setting['height']}x{setting['width']}, "
        f"{setting['precision']}, {setting['device']}, {setting['threads']} threads, "
        f"torch {setting['torch']}",
        f"proposals an image with a class above {setting['score_thr']}: "
        f"{setting['proposals above score_thr']:.0f}",
        "",
        f"{'':20}{'training step':^42}{'inference':^42}",
        f"{'':20}" + f"{'seconds':>10}{'images/s':>10}{'/ torchvision':>14}{'/ fpn':>8}" * 2,
    ]
    for name, summary in result["detectors"].items():
        cells = "".join(
            f"{each['seconds']:10.3f}{each['images_per_s']:10.2f}{each['of_torchvision']:14.2f}{each['of_fpn']:8.2f}"
            for each in (summary["train"], summary["inference"])
        )
        lines.append(f"{name:20}{cells}")
    for name, parts in result["parts"].items():
        for kind in ("train", "inference"):
            for what in (kind, f"{kind} operators"):
                shares = ", ".join(f"{part} {spent:.3f}" for part, spent in parts[what].items())
                if shares:
                    lines += ["", f"{name}, {what} (seconds): {shares}"]
    return "\n".join(lines)
