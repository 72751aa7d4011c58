"""The problem of placing a chain of blocks on unequal nodes (MTPP, PAPER section 2), as plain data.

What is the paper's: a stage costs `io in + work + overflow + io out`; parameters that do not fit
the fast memory are streamed; the slowest stage is the bottleneck t, and 1/t the throughput.

What is ours, as the paper's nodes and links are all alike: every node has its own speed, memory and
streaming rate, every link its own rate and delay in each direction, a stage a fixed overhead, and
the caller is an end of the chain with links of its own. A link's delay occupies nobody, so it
counts for the latency and not for a stage. The latency is one step's way from the caller through
all stages and back, each transfer counted once; the paper's k * t is its bound from above when
delays are nil. What is kept beside the parameters (the paper's peak(P)) is the cache; activations
of one step are small against it. The cache must fit: only parameters are streamed.

A plan may leave nodes unused; no node holds two stages. Spans that overlap are `sharing.py`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from shardline.core.errors import BadInput
from shardline.core.spans import Span

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Block", "Figures", "Node", "Problem", "Share", "evaluate", "weight_of"]

OBJECTIVES = {"throughput": 1.0, "latency": 0.0}


@dataclass(frozen=True, slots=True)
class Block:
    """What one block of the model costs; times are those of a node of speed 1."""

    work_s: float
    """Of one decode step."""
    parameter_bytes: int
    output_bytes: int
    """What one decode step sends on to the next block."""
    cache_bytes: int = 0
    """Held beside the parameters for as many tokens as are promised."""
    prefill_s: float = 0.0
    """Of one token of a prompt."""

    def __post_init__(self) -> None:
        _check(self, positive=("work_s",), zero=("prefill_s",))
        _check(self, zero=("parameter_bytes", "output_bytes", "cache_bytes"))


@dataclass(frozen=True, slots=True)
class Node:
    """One machine that may hold blocks."""

    name: str
    memory_bytes: int
    speed: float = 1.0
    """A block takes `work_s / speed` here."""
    stream_bytes_per_s: float | None = None
    """How fast parameters that do not fit are read in each step; None forbids it."""
    overhead_s: float = 0.0
    """What a stage costs here beside its blocks: frames, wake-ups."""
    holds: Span | None = None
    """If given, only these blocks may be placed here, as it has them already."""

    def __post_init__(self) -> None:
        _check(self, positive=("speed",), zero=("memory_bytes", "overhead_s"))
        if self.stream_bytes_per_s is not None:
            _check(self, positive=("stream_bytes_per_s",))


def _check(thing: Block | Node, positive: tuple[str, ...] = (), zero: tuple[str, ...] = ()) -> None:
    for name in positive + zero:
        value: float = getattr(thing, name)
        if not isfinite(value) or value < 0 or (value == 0 and name in positive):
            who = f"node {thing.name}" if isinstance(thing, Node) else "a block"
            limit = "more than 0" if name in positive else "0 or more"
            raise BadInput(f"{who}: {name} is {value}, and must be {limit}")


class Share(NamedTuple):
    """Blocks [start, stop) on the node of this index."""

    node: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Blocks, nodes, and the links between the nodes and the caller, who has the last index."""

    blocks: tuple[Block, ...]
    nodes: tuple[Node, ...]
    delay_s: Floats
    """One way, [from, to], nodes then caller; inf where there is no link."""
    bytes_per_s: Floats
    """Like `delay_s`; inf where a transfer takes no time, 0 where there is no link."""
    input_bytes: int = 0
    """What one step sends from the caller to the first block."""

    def __post_init__(self) -> None:
        if not self.blocks or not self.nodes:
            raise BadInput("a plan needs at least one block and one node")
        names = [node.name for node in self.nodes]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise BadInput(f"two nodes are called {twice}")
        size = len(self.nodes) + 1
        for name in ("delay_s", "bytes_per_s"):
            matrix = np.array(getattr(self, name), dtype=np.float64)
            if matrix.shape != (size, size):
                raise BadInput(f"{name} is {matrix.shape}: {size - 1} nodes and the caller ask "
                               f"for ({size}, {size})")  # fmt: skip
            if np.isnan(matrix).any() or (matrix < 0).any():
                raise BadInput(f"{name} holds a negative number or none")
            object.__setattr__(self, name, matrix)
        missing = np.isinf(self.delay_s) | (self.bytes_per_s == 0)
        self.delay_s[missing], self.bytes_per_s[missing] = inf, 0.0
        for matrix in (self.delay_s, self.bytes_per_s):
            matrix.setflags(write=False)
        if self.input_bytes < 0:
            raise BadInput(f"input_bytes is {self.input_bytes}, and must be 0 or more")

    def cut_bytes(self, cut: int) -> int:
        """What crosses the cut before this block; at 0 and at the end, to and from the caller."""
        return self.blocks[cut - 1].output_bytes if cut else self.input_bytes

    def transfer_s(self, cut: int, sender: int, receiver: int) -> float:
        """How long what crosses this cut occupies the link and its two ends."""
        rate = float(self.bytes_per_s[sender, receiver])
        if rate == 0:
            return inf
        return self.cut_bytes(cut) / rate

    def compute_s(self, share: Share) -> tuple[float, float]:
        """Work with overhead, and overflow; inf where the share cannot be there at all."""
        return self.held_s(share.node, range(share.start, share.stop))

    def held_s(self, index: int, held: Sequence[int]) -> tuple[float, float]:
        """`compute_s` of blocks that need not be a run."""
        node = self.nodes[index]
        blocks = [self.blocks[block] for block in held]
        work_s = node.overhead_s + sum(block.work_s for block in blocks) / node.speed
        parameters = sum(block.parameter_bytes for block in blocks)
        cache = sum(block.cache_bytes for block in blocks)
        may = node.holds
        if may and not may.start <= min(held) <= max(held) < may.stop:
            return work_s, inf
        over = parameters + cache - node.memory_bytes
        if over <= 0:
            return work_s, 0.0
        if node.stream_bytes_per_s is None or cache > node.memory_bytes:
            return work_s, inf
        return work_s, over / node.stream_bytes_per_s

    def prefill(self, tokens: int) -> Problem:
        """The same for a prompt of so many tokens in one step."""
        blocks = [
            replace(
                block, work_s=block.prefill_s * tokens, output_bytes=block.output_bytes * tokens
            )
            for block in self.blocks
        ]
        return replace(self, blocks=tuple(blocks), input_bytes=self.input_bytes * tokens)

    def without(self, names: set[str]) -> Problem:
        """The same without these nodes."""
        kept = [index for index, node in enumerate(self.nodes) if node.name not in names]
        ends = np.array([*kept, len(self.nodes)])
        return replace(
            self,
            nodes=tuple(self.nodes[index] for index in kept),
            delay_s=self.delay_s[np.ix_(ends, ends)],
            bytes_per_s=self.bytes_per_s[np.ix_(ends, ends)],
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data; None stands for what is infinite."""

        def plain(thing: Block | Node) -> dict[str, Any]:
            values = {field.name: getattr(thing, field.name) for field in fields(thing)}
            held = values.get("holds")
            return values | ({"holds": [held.start, held.stop]} if held else {})

        def rows(matrix: Floats) -> list[list[float | None]]:
            listed = cast("list[list[float]]", matrix.tolist())
            return [[value if isfinite(value) else None for value in row] for row in listed]

        return {
            "blocks": [plain(block) for block in self.blocks],
            "nodes": [plain(node) for node in self.nodes],
            "delay_s": rows(self.delay_s),
            "bytes_per_s": rows(self.bytes_per_s),
            "input_bytes": self.input_bytes,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Problem:
        """What `to_json` gave; raises BadInput for unknown or missing keys, impossible values."""
        _known(cls, data, "the problem")
        nodes: list[Node] = []
        for entry in data["nodes"]:
            _known(Node, entry, f"node {entry.get('name', '?')}")
            held = entry.get("holds")
            values: dict[str, Any] = {**entry, "holds": Span(*held) if held else None}
            nodes.append(Node(**values))
        for entry in data["blocks"]:
            _known(Block, entry, "a block")

        def matrix(rows: list[list[float | None]]) -> Floats:
            return np.array([[inf if value is None else value for value in row] for row in rows])

        return cls(
            blocks=tuple(Block(**entry) for entry in data["blocks"]),
            nodes=tuple(nodes),
            delay_s=matrix(data["delay_s"]),
            bytes_per_s=matrix(data["bytes_per_s"]),
            input_bytes=data.get("input_bytes", 0),
        )


def _known(kind: type, data: Mapping[str, Any], who: str) -> None:
    names = {field.name for field in fields(kind)}
    unknown = sorted(set(data) - names)
    if unknown:
        raise BadInput(f"{who}: unknown keys {', '.join(unknown)}; known are {', '.join(names)}")
    optional = {"input_bytes", "cache_bytes", "prefill_s", "speed"}
    optional |= {"stream_bytes_per_s", "overhead_s", "holds"}
    missing = sorted(names - set(data) - optional)
    if missing:
        raise BadInput(f"{who}: {', '.join(missing)} missing")


@dataclass(frozen=True, slots=True)
class Figures:
    """What a chain of shares would do; one entry a stage, in the chain's order."""

    in_s: tuple[float, ...]
    work_s: tuple[float, ...]
    overflow_s: tuple[float, ...]
    out_s: tuple[float, ...]
    stage_s: tuple[float, ...]
    bottleneck_s: float
    latency_s: float

    def value_s(self, weight: float) -> float:
        """The mix of both objectives: all latency at 0, all bottleneck at 1."""
        if weight in OBJECTIVES.values():  # neither may be inf * 0
            return self.bottleneck_s if weight else self.latency_s
        return weight * self.bottleneck_s + (1 - weight) * self.latency_s


def evaluate(problem: Problem, chain: Sequence[Share]) -> Figures:
    """Every figure of a plan, from the problem's own numbers; inf where it cannot be.

    Raises ValueError if the shares do not cover all blocks in order, or use a node twice.
    """
    starts = [share.start for share in chain]
    if [0, *(share.stop for share in chain)] != [*starts, len(problem.blocks)]:
        raise ValueError(f"shares {list(chain)} do not cover 0:{len(problem.blocks)} in order")
    used = [share.node for share in chain]
    if len(set(used)) < len(used) or any(share.start >= share.stop for share in chain):
        raise ValueError(f"shares {list(chain)} use a node twice or hold nothing")
    caller = len(problem.nodes)
    cuts = [*starts, len(problem.blocks)]
    links = list(pairwise([caller, *used, caller]))
    moved = [problem.transfer_s(cut, *link) for cut, link in zip(cuts, links, strict=True)]
    computed = [problem.compute_s(share) for share in chain]
    work, overflow = zip(*computed, strict=True)
    stages = [
        moved[place] + work[place] + overflow[place] + moved[place + 1]
        for place in range(len(chain))
    ]
    delay_s = sum(float(problem.delay_s[link]) for link in links)
    return Figures(
        in_s=tuple(moved[:-1]),
        work_s=tuple(work),
        overflow_s=tuple(overflow),
        out_s=tuple(moved[1:]),
        stage_s=tuple(stages),
        bottleneck_s=max(stages),
        latency_s=delay_s + sum(moved) + sum(work) + sum(overflow),
    )


def weight_of(objective: str | float) -> float:
    """`throughput` (1), `latency` (0), or a mix between; raises BadInput for anything else."""
    weight = OBJECTIVES.get(objective) if isinstance(objective, str) else objective
    if weight is None or not 0 <= weight <= 1:
        raise BadInput(f"objective {objective!r}: say throughput, latency or a number in [0, 1]")
    return float(weight)
