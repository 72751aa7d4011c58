"""`shardline status`: who is in the swarm and how it does."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from shardline.cli.looking import GRAPH, parts, round_trips_ms, visiting
from shardline.cli.options import join_option, json_option, keep_invite, the_invite
from shardline.cli.tables import table_console
from shardline.core.ids import NodeId, short
from shardline.core.spans import gaps
from shardline.core.units import format_bytes
from shardline.swarm import Flow, NodeRecord, State

if TYPE_CHECKING:
    from shardline.swarm import Invite

__all__ = ["status"]


@click.command()
@join_option
@json_option
def status(*, join_text: str | None, as_json: bool) -> None:
    """Show the swarm's nodes, their spans, devices, memory, load and round-trip times."""
    invite = the_invite(join_text)

    records, rtts_ms, routes = asyncio.run(_look(invite))
    keep_invite(invite)
    paths = _paths(records, rtts_ms, routes)
    if as_json:
        rows = [_row(record, rtts_ms[record.node], paths[record.node]) for record in records]
        click.echo(json.dumps({"nodes": rows}))
    else:
        _show(records, rtts_ms, paths)


async def _look(
    invite: Invite,
) -> tuple[list[NodeRecord], dict[NodeId, float | None], dict[NodeId, str | None]]:
    """The live nodes by their place in the model; round-trip times in ms, and the known routes."""
    async with visiting(invite) as member:
        found = (await member.directory.snapshot()).records
        rtts_ms = await round_trips_ms(member, found)
        routes = {node: member.place.route(node) for node in found}
    records = sorted(found.values(), key=lambda record: (record.model, record.start, record.name))
    return records, rtts_ms, routes


@dataclass(frozen=True, slots=True)
class _Path:
    """How this machine reaches a node."""

    kind: str | None
    """`direct`, `relayed` by another node, or None for one that does not answer."""
    via: str | None = None
    """The name of the node that passes on, or its address if it has no record."""

    def __str__(self) -> str:
        if self.kind is None:
            return ""
        return self.kind if self.via is None else f"{self.kind} via {self.via}"


def _paths(
    records: list[NodeRecord],
    rtts_ms: dict[NodeId, float | None],
    routes: dict[NodeId, str | None],
) -> dict[NodeId, _Path]:
    """What the transport knows of the way to each node; else what the node says.

    Links are direct between those who can dial; who listens nowhere names whom it dialled.
    """
    claims = Counter(address for record in records for address in record.addresses)
    owners = {
        address: record.name
        for record in records
        for address in record.addresses
        if claims[address] == 1  # loopback is everybody's
    }

    def path(record: NodeRecord) -> _Path:
        if rtts_ms[record.node] is None:
            return _Path(None)
        route = routes.get(record.node)
        if route is not None:
            return _Path(route)
        if record.addresses:
            return _Path("direct")
        return _Path("relayed", owners.get(record.through, record.through) or None)

    return {record.node: path(record) for record in records}


def _show(
    records: list[NodeRecord],
    rtts_ms: dict[NodeId, float | None],
    paths: dict[NodeId, _Path],
) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("node", "model", "blocks", "state", "device", "memory"):
        table.add_column(column)
    for column in ("tokens free", "sessions", "load", "round trip"):
        table.add_column(column, justify="right")
    table.add_column("path")
    for record in records:
        rtt_ms = rtts_ms[record.node]
        table.add_row(
            Text.assemble(record.name, " ", (short(record.node), "dim")),
            Text(record.model),
            f"{'stages ' if record.dtype == GRAPH else ''}{record.span} of {record.blocks}",
            _doing(record),
            Text(f"{record.device} {record.dtype}"),
            f"{format_bytes(record.memory_used_bytes)} of {format_bytes(record.memory_bytes)}",
            str(record.cache_tokens_free),
            str(record.sessions),
            f"{record.load:.0%}",
            "no answer" if rtt_ms is None else f"{rtt_ms:.1f} ms",
            Text(str(paths[record.node])),
        )
    console = table_console()
    console.print(table if records else "nobody serves in this swarm yet")
    for line in _missing(records):
        console.print(Text(line), style="yellow")


def _doing(record: NodeRecord) -> str:
    return f"moving to {record.moves_to}" if record.moves_to else record.state.value


def _missing(records: list[NodeRecord]) -> list[str]:
    """What each model lacks before it can be used."""
    lines: list[str] = []
    for print_ in dict.fromkeys(record.fingerprint for record in records):
        holders = [record for record in records if record.fingerprint == print_]
        ready = (record.span for record in holders if record.state is State.READY)
        missing = ", ".join(map(str, gaps(ready, holders[0].blocks)))
        if missing:
            lines.append(f"no live node holds {parts(holders[0])} {missing} of {holders[0].model}")
    return lines


def _row(record: NodeRecord, rtt_ms: float | None, path: _Path) -> dict[str, Any]:
    return {
        "name": record.name,
        "id": record.node,
        "model": record.model,
        "start": record.start,
        "stop": record.stop,
        "blocks": record.blocks,
        "state": record.state.value,
        "device": record.device,
        "dtype": record.dtype,
        "memory_bytes": record.memory_bytes,
        "memory_used_bytes": record.memory_used_bytes,
        "cache_tokens_free": record.cache_tokens_free,
        "cache_tokens_total": record.cache_tokens_total,
        "sessions": record.sessions,
        "load": record.load,
        "block_steps_per_s": record.block_steps_per_s,
        "rtt_ms": rtt_ms,
        "path": path.kind,
        "via": path.via,
        "links_ms": dict(record.links),
        "links": {node: _link(rtt_ms, flow) for node, rtt_ms, flow in record.measured()},
    }


def _link(rtt_ms: float, flow: Flow) -> dict[str, Any]:
    """What the node measured of a way to another; None is not known yet.

    Nothing is lost for good on our links: a ping that was lost on the way is late.
    """
    return {
        "rtt_ms": rtt_ms,
        "up_mbit_s": flow.up_kbit_s / 1e3 or None,
        "down_mbit_s": flow.down_kbit_s / 1e3 or None,
        "late_share": flow.late / flow.pings if flow.pings else None,
        "pings": flow.pings,
    }
