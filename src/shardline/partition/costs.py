"""The problem's numbers as arrays, for the methods that search; `evaluate` stays the judge."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import numpy as np

from shardline.core.errors import BadInput
from shardline.core.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shardline.partition.problem import Problem

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

__all__ = ["Costs", "listed"]


def listed(values: Ints) -> list[int]:
    """As plain numbers."""
    found: list[int] = values.tolist()
    return found


class Costs:
    """Segment and link times in seconds of a problem, or of some of its nodes.

    `segment[r, i, k]` is node i's work and overflow for blocks [r, r + 1 + k), inf where it cannot
    be; k is less than `band`, the most blocks that any node can hold. Link arrays are transposed,
    [to, from], because searches look for the best sender. Nodes are numbered within these costs;
    `names[i]` is the problem's own index.
    """

    def __init__(
        self, problem: Problem, within: tuple[Costs, Ints] | None = None, band: int | None = None
    ) -> None:
        self.problem = problem
        self.blocks = len(problem.blocks)
        count = len(problem.nodes)
        if within is None:
            self.names: Ints = np.arange(count)
            self.segment = _segments(problem, self.names)
        else:
            self.names = within[0].names[within[1]]
            self.segment = within[0].segment[:, :, :band].take(within[1], axis=1)
        self.nodes = len(self.names)
        self.band: int = self.segment.shape[2]
        kept = self.names
        with np.errstate(divide="ignore"):
            per_byte, sent, got = (
                1 / problem.bytes_per_s[ends]
                for ends in (np.ix_(kept, kept), (count, kept), (kept, count))
            )
        self._delay = _own(problem.delay_s[np.ix_(kept, kept)].T)
        self._per_byte = _own(per_byte.T)
        self._first = (problem.delay_s[count, kept], sent)
        self._last = (problem.delay_s[kept, count], got)
        sizes = [0, *(problem.cut_bytes(cut) for cut in range(1, self.blocks))]
        self._inner_bytes = np.array(sizes, dtype=np.float64)
        self._links: dict[int, tuple[Floats, Floats]] = {}

    def among(self, kept: Sequence[int] | Ints, band: int | None = None) -> Costs:
        """The same for some of these nodes, with at most so many blocks each."""
        return Costs(self.problem, (self, np.asarray(kept, dtype=np.int64)), band)

    def links(self, cut: int) -> tuple[Floats, Floats]:
        """Transfer and hop (transfer with delay) between nodes, [to, from], at an inner cut."""
        size = self.problem.cut_bytes(cut)
        if size not in self._links:
            # Nothing sent over no link is no way either.
            transfer = np.where(np.isinf(self._per_byte), inf, size * _finite(self._per_byte))
            np.fill_diagonal(transfer, inf)
            self._links[size] = transfer, transfer + self._delay
        return self._links[size]

    def transfers(self, sender: int, receiver: int) -> Floats:
        """Between these two at each inner cut; the first, which is none, is inf."""
        per_byte = float(self._per_byte[receiver, sender])
        if per_byte == inf or sender == receiver:
            return np.full(self.blocks, inf)
        transfer = self._inner_bytes * per_byte
        transfer[0] = inf
        return transfer

    def ends(self, *, first: bool) -> tuple[Floats, Floats]:
        """Transfer and hop from the caller to each node, or from each node to the caller."""
        delay, per_byte = self._first if first else self._last
        size = self.problem.cut_bytes(0 if first else self.blocks)
        transfer = np.where(np.isinf(per_byte), inf, size * _finite(per_byte))
        return transfer, transfer + delay

    def cheapest_links(self) -> tuple[Floats, Floats]:
        """The least transfer into and out of each node over all cuts, the caller's among them."""
        into, out = self.ends(first=True)[0], self.ends(first=False)[0]
        for cut in self.distinct_cuts():
            transfer = self.links(cut)[0]
            into, out = np.minimum(into, transfer.min(1)), np.minimum(out, transfer.min(0))
        return into, out

    def distinct_cuts(self) -> list[int]:
        """One inner cut for each different number of bytes."""
        return list({self.problem.cut_bytes(cut): cut for cut in range(1, self.blocks)}.values())

    def check_room(self) -> None:
        """Raises BadInput if the nodes cannot hold the model, saying what would make it fit."""
        room = int(self.capacities().sum())
        if room >= self.blocks:
            return
        blocks = self.problem.blocks
        size = sum(block.parameter_bytes + block.cache_bytes for block in blocks)
        held = sum(node.memory_bytes for node in self.problem.nodes)
        each = max(block.parameter_bytes + block.cache_bytes for block in blocks)
        raise BadInput(
            f"the model has {self.blocks} blocks ({format_bytes(size)}) and the nodes "
            f"({format_bytes(held)}) hold {room}: add nodes with {self.blocks - room} x "
            f"{format_bytes(each)}, or a rate to stream what does not fit"
        )

    def capacities(self) -> Ints:
        """The most blocks that each node can hold, wherever they lie."""
        counts: Ints = np.arange(1, self.band + 1)
        found: Ints = np.where(np.isfinite(self.segment).any(axis=0), counts, 0).max(axis=1)
        return found


def _finite(values: Floats) -> Floats:
    return np.where(np.isinf(values), 0.0, values)


def _own(values: Floats) -> Floats:
    return np.ascontiguousarray(values)


def _segments(problem: Problem, names: Ints) -> Floats:
    """`Costs.segment`, one column of lengths after the other until nobody can hold more."""
    nodes = [problem.nodes[index] for index in listed(names)]
    blocks = problem.blocks
    work, parameters, cache = (
        np.concatenate([[0.0], np.cumsum([getattr(block, name) for block in blocks])])
        for name in ("work_s", "parameter_bytes", "cache_bytes")
    )
    speed, memory, overhead = (
        np.array([getattr(node, name) for node in nodes], dtype=np.float64)
        for name in ("speed", "memory_bytes", "overhead_s")
    )
    stream = np.array([node.stream_bytes_per_s or 0.0 for node in nodes])
    held = [node.holds for node in nodes]
    lowest = np.array([span.start if span else 0 for span in held])
    highest = np.array([span.stop if span else len(blocks) for span in held])
    # Where blocks are all alike, those at the start stand for all.
    alike = len(set(blocks)) == 1 and not any(held)
    columns: list[Floats] = []
    for length in range(1, len(blocks) + 1):
        starts: Ints = np.arange(1 if alike else len(blocks) - length + 1)[:, None]
        kept = cache[starts + length] - cache[starts]
        over = parameters[starts + length] - parameters[starts] + kept - memory
        with np.errstate(divide="ignore", invalid="ignore"):
            streamed = np.where((stream > 0) & (kept <= memory), over / stream, inf)
        seconds = overhead + (work[starts + length] - work[starts]) / speed
        seconds = seconds + np.where(over > 0, streamed, 0.0)
        seconds[(starts < lowest) | (starts + length > highest)] = inf
        if columns and not np.isfinite(seconds).any():
            break
        columns.append(seconds)
    if alike:
        stops: Ints = np.arange(len(blocks))[:, None] + np.arange(1, len(columns) + 1)
        inside = (stops <= len(blocks))[:, None, :]
        return np.where(inside, np.stack(columns, axis=2), inf)
    pads = [((0, length), (0, 0)) for length in range(len(columns))]
    padded = [np.pad(one, pad, constant_values=inf) for one, pad in zip(columns, pads, strict=True)]
    return np.ascontiguousarray(np.stack(padded, axis=2))
