"""The problem's numbers as arrays, for the methods that search; `evaluate` stays the judge."""

from __future__ import annotations

from functools import cached_property
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
    be; k is less than `band`, the most blocks that any node can hold. It is made when it is asked
    for: of blocks that are all alike `starts` has the first row alone, and it stands for all. Link
    arrays are transposed, [to, from], because searches look for the best sender. Nodes are numbered
    within these costs; `names[i]` is the problem's own index.
    """

    def __init__(
        self, problem: Problem, within: tuple[Costs, Ints] | None = None, band: int | None = None
    ) -> None:
        self.problem = problem
        self.blocks = len(problem.blocks)
        count = len(problem.nodes)
        if within is None:
            self.names: Ints = np.arange(count)
            self.starts = _segments(problem, self.names)
            sizes = [0, *(problem.cut_bytes(cut) for cut in range(1, self.blocks))]
            self.inner_bytes = np.array(sizes, dtype=np.float64)
        else:
            self.names = within[0].names[within[1]]
            self.starts = within[0].starts[:, :, :band].take(within[1], axis=1)
            self.inner_bytes = within[0].inner_bytes
        self.nodes = len(self.names)
        self.band: int = self.starts.shape[2]
        kept = self.names
        with np.errstate(divide="ignore"):
            sent, got = (1 / problem.bytes_per_s[ends] for ends in ((count, kept), (kept, count)))
            self._per_byte = 1 / self._between(problem.bytes_per_s)
        self._first = (problem.delay_s[count, kept], sent)
        self._last = (problem.delay_s[kept, count], got)
        self._links: dict[int, tuple[Floats, Floats]] = {}

    def among(self, kept: Sequence[int] | Ints, band: int | None = None) -> Costs:
        """The same for some of these nodes, with at most so many blocks each."""
        return Costs(self.problem, (self, np.asarray(kept, dtype=np.int64)), band)

    @property
    def alike(self) -> bool:
        """Whether one start stands for all, as blocks are all alike and nobody has some already."""
        return len(self.starts) == 1

    @cached_property
    def segment(self) -> Floats:
        """Work and overflow, [start, node, length - 1]."""
        if len(self.starts) == self.blocks:
            return self.starts
        stops: Ints = np.arange(self.blocks)[:, None] + np.arange(1, self.band + 1)
        return np.where((stops <= self.blocks)[:, None, :], self.starts, inf)

    @cached_property
    def least(self) -> Floats:
        """The least segment of each node, [node, length - 1], wherever it lies."""
        return self.starts.min(axis=0)

    @cached_property
    def usual(self) -> Floats:
        """The mean segment of each node where it can be, [node, length - 1]; else inf."""
        possible = np.isfinite(self.starts)
        sums = np.where(possible, self.starts, 0.0).sum(axis=0)
        return np.where(np.isfinite(self.least), sums / np.maximum(possible.sum(axis=0), 1), inf)

    def _between(self, matrix: Floats) -> Floats:
        """Of these nodes, [to, from]."""
        if self.nodes == len(matrix) - 1:
            return _own(matrix[:-1, :-1].T)
        return matrix.T[np.ix_(self.names, self.names)]

    @cached_property
    def _delay(self) -> Floats:
        return self._between(self.problem.delay_s)

    def links(self, cut: int) -> tuple[Floats, Floats]:
        """Transfer and hop (transfer with delay) between nodes, [to, from], at an inner cut."""
        size = self.problem.cut_bytes(cut)
        if size not in self._links:
            transfer = _sent_s(size, self._per_byte)
            np.fill_diagonal(transfer, inf)
            self._links[size] = transfer, transfer + self._delay
        return self._links[size]

    def transfers(self, sender: int, receiver: int) -> Floats:
        """Between these two at each inner cut; the first, which is none, is inf."""
        per_byte = float(self._per_byte[receiver, sender])
        if per_byte == inf or sender == receiver:
            return np.full(self.blocks, inf)
        transfer = self.inner_bytes * per_byte
        transfer[0] = inf
        return transfer

    def ends(self, *, first: bool) -> tuple[Floats, Floats]:
        """Transfer and hop from the caller to each node, or from each node to the caller."""
        delay, per_byte = self._first if first else self._last
        size = self.problem.cut_bytes(0 if first else self.blocks)
        transfer = _sent_s(size, per_byte)
        return transfer, transfer + delay

    def cheapest_links(self) -> tuple[Floats, Floats]:
        """The least transfer into and out of each node over all cuts, the caller's among them."""
        return self._cheapest

    @cached_property
    def _cheapest(self) -> tuple[Floats, Floats]:
        into, out = self.ends(first=True)[0], self.ends(first=False)[0]
        if self.nodes > 1 and self.blocks > 1:
            size = float(self.inner_bytes[1:].min())
            others = self._per_byte.copy()
            np.fill_diagonal(others, inf)
            into = np.minimum(into, _sent_s(size, others.min(axis=1)))
            out = np.minimum(out, _sent_s(size, others.min(axis=0)))
        return into, out

    @cached_property
    def block_s(self) -> Floats:
        """What a block costs on each node at least, with its share of the nearest way in."""
        into = self.ends(first=True)[1]
        for cut in self.distinct_cuts():
            into = np.minimum(into, self.links(cut)[1].min(axis=1))
        return ((self.least + into[:, None]) / np.arange(1, self.band + 1)).min(axis=1)

    def distinct_cuts(self) -> list[int]:
        """One inner cut for each different number of bytes."""
        return self._distinct

    @cached_property
    def _distinct(self) -> list[int]:
        return list(
            {size: cut for cut, size in enumerate(self.inner_bytes.tolist()) if cut}.values()
        )

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
        found: Ints = np.where(np.isfinite(self.least), counts, 0).max(axis=1)
        return found


def _sent_s(size: float, per_byte: Floats) -> Floats:
    # Nothing sent over no link is no way either.
    return size * per_byte if size else np.where(np.isinf(per_byte), inf, 0.0)


def _own(values: Floats) -> Floats:
    return np.ascontiguousarray(values)


def _segments(problem: Problem, names: Ints) -> Floats:
    """`Costs.segment`, as far as lengths go that somebody can hold; if blocks are all alike, of the
    first start alone."""
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

    def seconds(starts: Ints, lengths: Ints | int) -> Floats:
        """Of these runs, [run, node]."""
        kept = cache[starts + lengths] - cache[starts]
        over = parameters[starts + lengths] - parameters[starts] + kept - memory
        with np.errstate(divide="ignore", invalid="ignore"):
            streamed = np.where((stream > 0) & (kept <= memory), over / stream, inf)
        found = overhead + (work[starts + lengths] - work[starts]) / speed
        found = found + np.where(over > 0, streamed, 0.0)
        found[(starts < lowest) | (starts + lengths > highest)] = inf
        return found

    if len(set(blocks)) == 1 and not any(held):
        counts: Ints = np.arange(1, len(blocks) + 1)[:, None]
        found = seconds(np.zeros_like(counts), counts)
        band = max(1, int(np.isfinite(found).any(axis=1).sum()))
        return _own(found[:band].T)[None]
    columns: list[Floats] = []
    for length in range(1, len(blocks) + 1):
        column = seconds(np.arange(len(blocks) - length + 1)[:, None], length)
        if columns and not np.isfinite(column).any():
            break
        columns.append(column)
    pads = [((0, length), (0, 0)) for length in range(len(columns))]
    padded = [np.pad(one, pad, constant_values=inf) for one, pad in zip(columns, pads, strict=True)]
    return np.ascontiguousarray(np.stack(padded, axis=2))
