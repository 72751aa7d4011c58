"""A plan for a person: one calm table, what it would do, and how sure that it is the best."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shardline.cli.tables import table_console

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from shardline.partition import Plan, SharedPlan

__all__ = ["certainty", "headline", "say", "show"]

PROVEN = 1e-6
"""A gap below this is rounding."""


def show(found: Plan, more: Iterable[str] = ()) -> None:
    """One calm table, then what the plan would do, how sure that it is the best, and more lines."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("node")
    table.add_column("blocks")
    shared = _shared(found)
    table.add_column("ms a token" if shared else "stage ms", justify="right")
    if shared:
        table.add_column("busy", justify="right")
    table.add_column("why")
    for row in _rows(found):
        table.add_row(*map(Text, row))
    console = table_console()
    console.print(table)
    say([_rates(found), certainty(found), *more])


def say(lines: Iterable[str]) -> None:
    """Lines as they are, however long."""
    console = Console()
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def headline(found: Plan, what: str) -> str:
    """What the plan is of and what it would do, in the one line of a drawing."""
    best = "proven the best" if found.gap < PROVEN else f"within {found.gap:.1%} of the best"
    one, many = (1e3 / ms for ms in (found.latency_ms, found.bottleneck_ms))
    text = f"{what}; {one:.1f} tokens/s for one stream, {many:.1f} for many; {best}"
    return "".join(letter for letter in text if letter.isprintable())


def _rates(found: Plan) -> str:
    one = (
        f"{1e3 / found.latency_ms:.1f} tokens/s for one stream ({found.latency_ms:.1f} ms a token)"
    )
    slowest = f"slowest stage {found.bottleneck_ms:.1f} ms"
    if shared := _shared(found):
        slowest = f"{shared.chain_tokens_per_s:.1f} over the best chain alone"
    return f"{one}, {1e3 / found.bottleneck_ms:.1f} for many ({slowest})"


def _shared(found: Plan) -> SharedPlan | None:
    from shardline.partition import SharedPlan

    return found if isinstance(found, SharedPlan) else None


def _rows(found: Plan) -> Iterator[tuple[str, ...]]:
    """A row a node: those that hold blocks in their order, then those that are left out.

    A reason is "name and what it has: why", and no name holds ": ".
    """
    stages = zip(found.assignment, found.stage_ms, strict=True)
    heads = [(share.node, f"{share.start}:{share.stop}", f"{ms:.1f}") for share, ms in stages]
    shared = _shared(found)
    busy = [(f"{part:.0%}",) for part in shared.busy] if shared else [()] * len(heads)
    none = ("-",) if shared else ()
    for place, reason in enumerate(found.reasons):
        what, _, why = reason.partition(": ")
        unused = (what.partition(" ")[0], "-", "-")
        if place < len(heads):
            yield (*heads[place], *busy[place], why)
        else:
            yield (*unused, *none, why)


def certainty(found: Plan) -> str:
    """How far from the best the plan can be at most."""
    latency = found.objective == "latency"
    spent = f"({found.method}, {found.seconds:.1f} s)"
    if found.gap < PROVEN:
        what = "takes a token through sooner" if latency else "serves many streams faster"
        return f"proven the best: no plan {what} {spent}"
    if _shared(found):
        return (
            f"no spans of these nodes carry more than {1e3 / found.lower_bound_ms:.1f} tokens/s: "
            f"this plan is within {found.gap:.1%} of the best {spent}"
        )
    figure = "a token" if latency else "its slowest stage"
    return (
        f"any plan needs {found.lower_bound_ms:.1f} ms or more for {figure}: "
        f"this one is within {found.gap:.1%} of the best {spent}"
    )
