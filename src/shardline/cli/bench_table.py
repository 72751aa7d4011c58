"""One calm table of what `shardline bench node` and `bench chain` measured."""

from __future__ import annotations

from typing import Any, Final

from shardline.core.units import format_bytes

__all__ = ["node_table"]

LARGE: Final = 100
SMALL: Final = 0.1


def node_table(report: dict[str, Any]) -> str:
    """The report as a person reads it: batches, prompts, then a line for each single figure."""
    rows = any("one_session_tokens_per_s" in row for row in report["batches"])
    heads = ["at once", "tokens/s", "each", "Transformers", *(["one session"] if rows else [])]
    lines = [_line(*heads)]
    for row in report["batches"]:
        each = row["tokens_per_s"] / row["batch"]
        more = [_figure(row["one_session_tokens_per_s"])] if rows else []
        alone = row["hf_tokens_per_s"]
        lines.append(_line(row["batch"], *map(_figure, (row["tokens_per_s"], each, alone)), *more))
    lines += ["", _line("prompt", "first s", "of bound")]
    for length, seconds in report["time_to_first_token_s"].items():
        why_not = report["skipped"].get(length)
        share = _share(report["prefill_share"].get(length))
        lines.append(
            f"{length:>8}  {why_not}" if why_not else _line(length, _figure(seconds), share)
        )
    return "\n".join([*lines, "", *_sentences(report)])


def _sentences(report: dict[str, Any]) -> list[str]:
    nodes = report["nodes"]
    count, threads = len(nodes), report["threads"]
    held = " + ".join(format_bytes(one["rss_bytes"]) for one in nodes)
    share = _share(report["bandwidth_share"])
    what = f"{report['model']}, {report['weights']}, {count} node{'s' * (count > 1)}"
    read, multiply = report["read_gb_per_s"], report["matmul_gflop_per_s"]
    python_ms = report["python_ms_per_layer"]
    pinned = ", each on its own cores" if report.get("pinned") else ""
    return [
        f"{what} of {threads} thread{'s' * (threads > 1)}{pinned} on {report['device']}",
        *_arrivals(report.get("arrivals")),
        f"one session decodes at {share} of what reading weights at {read:.1f} GB/s allows",
        f"large matrix products run at {multiply:.0f} GFLOP/s",
        f"Python takes at most {python_ms:.2f} ms a layer",
        f"memory of the nodes' processes: {held}",
    ]


def _arrivals(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    write, together = map(_figure, (found["random_tokens_per_s"], found["together_tokens_per_s"]))
    who = f"{found['sessions']} sessions that come at random times"
    return [f"{who} write {write} tokens/s, {_share(found['share'])} of {together} together"]


def _line(*cells: object) -> str:
    first, *rest = cells
    return f"{first:>8}" + "".join(f"{cell:>14}" for cell in rest)


def _figure(value: float) -> str:
    """Three digits, and no exponent."""
    return f"{value:.0f}" if value >= LARGE else f"{value:.3g}"


def _share(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1%}" if value < SMALL else f"{value:.0%}"
