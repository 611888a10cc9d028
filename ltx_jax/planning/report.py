"""A report as a table for people and as data for programs."""

from collections import defaultdict
from typing import Any

from ltx_jax.parallel.chips import GIB
from ltx_jax.planning.plan import Report
from ltx_jax.planning.workload import Workload


def as_dict(report: Report) -> dict[str, Any]:
    """JSON-able. Bytes, FLOPs and seconds; memory of one device, flops_per_step of all."""
    line = report.roofline
    return {
        "fits": report.fits,
        "memory_per_chip": report.memory_per_chip,
        "hbm_per_chip": report.hbm_per_chip,
        "memory_by_kind": report.memory_by_kind,
        "flops_per_step": report.flops_per_step,
        "roofline_s": line.overlapped_s if line else None,
        "mfu": report.mfu,
        "collectives": collectives(report),
        "compile_s": report.compile_s,
        "topology": report.topology,
        "mode": report.mode,
        "mesh": report.mesh,
        "parameters": report.parameters,
        "host_memory": report.host,
        "executed_flops_per_chip": report.executed_flops,
        "bytes_per_chip": report.bytes,
        "roofline_not_overlapped_s": line.serial_s if line else None,
        "roofline_parts_s": {"compute": line.compute_s, "memory": line.memory_s, "transfers": line.transfer_s}
        if line
        else None,
        "largest_replicated_parameter": dict(zip(("name", "bytes"), report.replicated_parameter, strict=True)),
        "largest_replicated_activation": dict(zip(("name", "bytes"), report.replicated_activation, strict=True)),
        "problem": report.problem,
    }


def collectives(report: Report) -> list[dict[str, Any]]:
    """What each device sends in one run: by kind, dtype and size of the group, the largest first."""
    sent: dict[tuple[str, str, int], float] = defaultdict(float)
    times: dict[tuple[str, str, int], float] = defaultdict(float)
    for key, size in report.collectives.items():
        short = (key.kind, key.dtype, len(key.group) if key.kind != "collective-permute" else 2)
        sent[short] += size
        times[short] += report.counts[key]
    return [
        {"kind": kind, "dtype": dtype, "group": group, "bytes": float(size), "count": float(times[kind, dtype, group])}
        for (kind, dtype, group), size in sorted(sent.items(), key=lambda item: -item[1])
        if size
    ]


def as_table(report: Report, workload: Workload) -> str:
    """Lines of name and value."""
    shape = workload.shape
    mesh = ", ".join(f"{axis} {n}" for axis, n in report.mesh.items())
    rows = [
        ("topology", report.topology),
        ("mesh", mesh),
        ("clip", f"{shape.width} x {shape.height}, {shape.frames} frames at {shape.fps:g} fps"),
        ("trained parameters" if report.mode == "train" else "weights", f"{report.parameters / 1e9:.3f} B"),
        *((f"  {kind}", f"{size / GIB:.2f} GiB") for kind, size in report.memory_by_kind.items()),
        ("memory per chip", f"{report.memory_per_chip / GIB:.2f} of {report.hbm_per_chip / GIB:.2f} GiB"),
        *([("  in host memory", f"{report.host / GIB:.2f} GiB")] if report.host else []),
        ("fits", ("yes" if report.fits else "no") + (f" ({report.problem})" if report.problem else "")),
        ("FLOPs per step", f"{report.flops_per_step:.3g} of all chips"),
    ]
    rows += _speed(report, workload) if report.roofline else []
    for what, (name, size) in (
        ("largest replicated", report.replicated_parameter),
        ("  on the way", report.replicated_activation),
    ):
        rows.append((what, f"{size / GIB:.3f} GiB {name}" + ("" if size <= GIB else "  (above 1 GiB!)")))
    rows.append(("compile time", f"{report.compile_s:.0f} s"))
    return "\n".join(f"{name:<20} {value}" for name, value in rows)


def _speed(report: Report, workload: Workload) -> list[tuple[str, str]]:
    line = report.roofline
    assert line is not None
    what = (
        f"{workload.steps} steps" if report.mode == "sample" else "a step" if report.mode == "train" else "a decoding"
    )
    rows = [
        ("executed", f"{report.executed_flops:.3g} FLOPs and {report.bytes / 1e9:.4g} GB of memory traffic per chip"),
        ("roofline", f"{line.overlapped_s:.3g} s for {what} with transfers overlapped, {line.serial_s:.3g} s without"),
        ("", f"(compute {line.compute_s:.3g}, memory {line.memory_s:.3g}, transfers {line.transfer_s:.3g} s)"),
        ("MFU it implies", f"{report.mfu or 0:.1%}"),
        ("collectives", "" if report.collectives else "none"),
    ]
    for item in collectives(report)[:12]:
        size = f"{item['bytes'] / 1e9:9.3f} GB sent per chip, {item['count']:.0f} times, groups of {item['group']}"
        rows.append((f"  {item['kind']}", f"{item['dtype']:<5}{size}"))
    return rows
