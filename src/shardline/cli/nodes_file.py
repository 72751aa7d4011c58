"""What a person writes down of machines and links for `shardline plan`: a TOML file, or one line.

    [caller]                        # optional: the machine that asks
    rtt_ms = 5                      # round trip to all others; of two ends the larger counts
    up_mbit = 40                    # the sender's up or the receiver's down counts, the less
    down_mbit = 250                 # left out, up and down are no limit

    [[node]]
    name = "desk"
    memory = "8GiB"                 # for weights and cache
    block_ms = 1.2                  # a decode step of a block of mean size; or else, of weights:
    # bandwidth_gbs = 50            # how fast they are read
    # gflops = 500                  # and how fast they are multiplied; the slower counts
    rtt_ms = "none"                 # no link but those listed; 20 if left out
    overhead_ms = 1                 # what a step costs here beside its blocks
    stream_gbs = 6                  # reading weights that do not fit, each step (planned only)

    [[link]]                        # instead of what both ends say
    a = "desk"
    b = "caller"
    rtt_ms = 0.4
    mbit = 1000

Pure: text in, plain data out. Every error is one line that says what to write instead.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any, cast

from shardline.core.errors import BadInput
from shardline.core.units import parse_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CALLER", "End", "Link", "Machine", "NodesFile"]

CALLER = "caller"
NO_LINK = "none"
RTT_MS = 20.0
"""Of a machine whose round trip nobody gave: two homes in one country."""
LEAST, MOST = 1e-6, 1e12
NODES_MAX = 2_048
"""More make link tables of gigabytes."""
NAME = re.compile(r"[\w.-]{1,64}")
ADDED = re.compile(r"([^:=]*):(.*)", re.DOTALL)

_END = ("rtt_ms", "up_mbit", "down_mbit")
_PACE = ("block_ms", "bandwidth_gbs", "gflops")
_MACHINE = ("name", "memory", *_PACE, *_END, "overhead_ms", "stream_gbs")
_LINK = ("a", "b", "rtt_ms", "mbit")


@dataclass(frozen=True, slots=True)
class End:
    """How a machine, or the caller, hangs on the network."""

    rtt_ms: float | None = 0.0
    """To all others; None where only listed links are."""
    up_mbit: float = inf
    down_mbit: float = inf


@dataclass(frozen=True, slots=True)
class Machine:
    """One node: memory, pace and place on the network."""

    name: str
    memory_bytes: int
    end: End
    block_ms: float | None = None
    """One decode step of one block of mean size; None where it follows from the two below."""
    bandwidth_gbs: float | None = None
    gflops: float | None = None
    overhead_ms: float = 0.0
    stream_gbs: float | None = None

    def block_s(self, weights_bytes: float, flop: float) -> float:
        """One decode step of a block that reads and multiplies so much."""
        if self.block_ms is not None:
            return self.block_ms / 1e3
        reads_s = weights_bytes / (1e9 * self.bandwidth_gbs) if self.bandwidth_gbs else 0.0
        return max(reads_s, flop / (1e9 * self.gflops) if self.gflops else 0.0)


@dataclass(frozen=True, slots=True)
class Link:
    """Between two ends, both ways, instead of what they say of themselves."""

    a: str
    b: str
    rtt_ms: float | None
    mbit: float | None = None
    """None: as both ends say."""
    back_mbit: float | None = None
    """From b to a, if that way was measured too; None: as from a to b."""


@dataclass(frozen=True, slots=True)
class NodesFile:
    """All machines, the caller, and the links that are not as their ends say."""

    caller: End
    machines: tuple[Machine, ...]
    links: tuple[Link, ...] = ()

    @classmethod
    def parse(cls, text: str) -> NodesFile:
        """Read the whole file; raises BadInput, in one line, for anything that cannot be."""
        try:
            data = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"the nodes file is no TOML: {error}") from None
        _known(data, (CALLER, "node", "link"), "the file")
        machines = tuple(map(_machine, _tables(data, "node")))
        if not 0 < len(machines) <= NODES_MAX:
            count = len(machines) or "no"
            raise BadInput(f"{count} nodes: write a [[node]] for each machine, {NODES_MAX} at most")
        names = [machine.name for machine in machines]
        for name in names:
            if names.count(name) > 1:
                raise BadInput(f"two nodes are called {name}: give each a name of its own")
        caller = data.get(CALLER, {})
        if not isinstance(caller, dict):
            raise BadInput("caller is no table: write [caller] on a line, its keys below")
        _known(cast("dict[str, Any]", caller), _END, "[caller]")
        ends = {*names, CALLER}
        links = tuple(_link(table, ends) for table in _tables(data, "link"))
        return cls(_end(cast("dict[str, Any]", caller), "[caller]", 0.0), machines, links)

    def adding(self, text: str) -> NodesFile:
        """With one more machine: `NAME:memory=12GiB,block_ms=1,rtt_ms=5`; raises BadInput."""
        match = ADDED.fullmatch(text)
        if not match:
            raise BadInput(f"add={text}: write add=NAME:memory=12GiB,block_ms=1,rtt_ms=5")
        table: dict[str, Any] = {"name": match[1]}
        for part in match[2].split(","):
            key, equals, value = part.partition("=")
            if not equals or key.strip() in table:
                raise BadInput(f"add={text}: {part!r} is no key=value, or there twice")
            table[key.strip()] = _value(value.strip())
        machine = _machine(table)
        if any(machine.name == other.name for other in self.machines):
            raise BadInput(f"add={text}: there is a node called {machine.name} already")
        return replace(self, machines=(*self.machines, machine))

    def removing(self, name: str) -> NodesFile:
        """Without this machine and its links; raises BadInput if there is none, or no other."""
        kept = tuple(machine for machine in self.machines if machine.name != name)
        if len(kept) == len(self.machines):
            names = ", ".join(machine.name for machine in kept)
            raise BadInput(f"remove={name}: there is no such node, there are {names}")
        if not kept:
            raise BadInput(f"remove={name}: it is the only node")
        links = tuple(link for link in self.links if name not in {link.a, link.b})
        return replace(self, machines=kept, links=links)


def _value(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _tables(data: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found: object = data.get(key, [])
    tables = cast("list[object]", found) if isinstance(found, list) else [None]
    if not all(isinstance(table, dict) for table in tables):
        raise BadInput(f"{key} is no list of tables: write [[{key}]] on a line, its keys below")
    return cast("list[dict[str, Any]]", tables)


def _known(table: Mapping[str, Any], keys: tuple[str, ...], who: str) -> None:
    unknown = [key for key in table if key not in keys]
    if unknown:
        raise BadInput(f"{who}: unknown key {', '.join(unknown)}; known are {', '.join(keys)}")


def _machine(table: dict[str, Any]) -> Machine:
    name = table.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name) or name == CALLER:
        raise BadInput(f"a node's name is {name!r}: write letters, digits, dots or dashes, "
                       f"64 at most, and not {CALLER}")  # fmt: skip
    who = f"node {name}"
    _known(table, _MACHINE, who)
    if "memory" not in table:
        raise BadInput(f'{who}: memory missing: write memory = "8GiB"')
    try:
        memory_bytes = parse_bytes(str(table["memory"]))
    except BadInput as error:
        raise BadInput(f"{who}: memory: {error}") from None
    given = [key for key in _PACE if key in table]
    if not given or ("block_ms" in given and len(given) > 1):
        raise BadInput(f"{who}: give its pace: block_ms, or else bandwidth_gbs, gflops or both")
    overhead = _number(table, "overhead_ms", who, least=0.0)
    return Machine(
        name=name,
        memory_bytes=memory_bytes,
        end=_end(table, who, RTT_MS),
        block_ms=_number(table, "block_ms", who),
        bandwidth_gbs=_number(table, "bandwidth_gbs", who),
        gflops=_number(table, "gflops", who),
        overhead_ms=overhead or 0.0,
        stream_gbs=_number(table, "stream_gbs", who),
    )


def _end(table: Mapping[str, Any], who: str, rtt_ms: float) -> End:
    return End(
        rtt_ms=_rtt(table, who) if "rtt_ms" in table else rtt_ms,
        up_mbit=_number(table, "up_mbit", who) or inf,
        down_mbit=_number(table, "down_mbit", who) or inf,
    )


def _link(table: Mapping[str, Any], ends: set[str]) -> Link:
    a, b = table.get("a"), table.get("b")
    who = f"link {a}-{b}"
    _known(table, _LINK, who)
    for end in (a, b):
        if end not in ends:
            raise BadInput(f"{who}: there is no {end}: a and b are nodes' names, or {CALLER}")
    if a == b:
        raise BadInput(f"{who}: a link is between two")
    if "rtt_ms" not in table:
        raise BadInput(f"{who}: rtt_ms missing: write the round trip, or {NO_LINK!r} for no link")
    return Link(str(a), str(b), _rtt(table, who), _number(table, "mbit", who))


def _rtt(table: Mapping[str, Any], who: str) -> float | None:
    return None if table["rtt_ms"] == NO_LINK else _number(table, "rtt_ms", who, least=0.0)


def _number(table: Mapping[str, Any], key: str, who: str, *, least: float = LEAST) -> float | None:
    """The number under this key, None if there is none; raises BadInput."""
    if key not in table:
        return None
    value = table[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= MOST:
        shown = repr(value)[:40]
        raise BadInput(f"{who}: {key} is {shown}, and must be a number from {least:g} to {MOST:g}")
    return float(value)
