"""From a model's chain and a nodes file to the problem that `partition` solves, and to what-ifs.

A block's work goes with what it took when `shardline profile` measured it. As long as nobody has,
it goes with its parameters: a decode step reads and multiplies each once. Of a mixture of experts a
step reads a part: measure it, and give nodes `block_ms` as measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from shardline.cli.nodes_file import CALLER
from shardline.core.errors import BadInput
from shardline.core.spans import Span
from shardline.partition import Block, Node, Problem

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from shardline.cli.nodes_file import NodesFile
    from shardline.model import ChainPlan, PagedLayer
    from shardline.partition import Plan

    Floats = NDArray[np.float64]

__all__ = ["Change", "Sizes", "changed", "problem_of", "sizes_of"]

MBIT_BYTES = 1e6 / 8
NAMED_MAX = 5


@dataclass(frozen=True, slots=True)
class Sizes:
    """What of a model counts for placing it."""

    block_bytes: tuple[int, ...]
    block_elements: tuple[int, ...]
    cache_bytes: tuple[int, ...]
    """Of each block, for the tokens that are promised."""
    output_bytes: int
    """What one decode step carries from block to block."""
    block_ms: tuple[float, ...] = ()
    """A decode step of each block, as some machine measured it: how they compare. Empty: nobody."""

    @property
    def work(self) -> tuple[float, ...]:
        """What a block takes, beside another one."""
        return self.block_ms or tuple(map(float, self.block_bytes))

    @property
    def notes(self) -> tuple[str, ...]:
        """For a person: that blocks differ by what was measured, if they do."""
        if len(set(self.block_ms)) < 2:  # noqa: PLR2004  (two differ)
            return ()
        return ("blocks count by what a step took when `shardline profile` measured them",)


def sizes_of(chain: ChainPlan, dtype: torch.dtype, tokens: int, cache: type[PagedLayer]) -> Sizes:
    """Bytes of a chain's blocks at this dtype, with cache for one sequence of so many tokens."""
    each = [Span(block, block + 1) for block in range(chain.blocks)]
    return Sizes(
        block_bytes=chain.block_bytes(dtype),
        block_elements=chain.block_elements,
        cache_bytes=tuple(
            tokens * chain.cache_bytes_per_token(dtype, span, cache)
            + chain.cache_bytes_fixed(dtype, span)
            for span in each
        ),
        output_bytes=chain.step_elements * dtype.itemsize,
    )


def problem_of(sizes: Sizes, file: NodesFile) -> Problem:
    """These blocks on these machines; a speed of 1 is the middle one of theirs.

    Raises BadInput if a machine is not connected with the caller.
    """
    mean_bytes, mean_elements = np.mean(sizes.block_bytes), np.mean(sizes.block_elements)
    block_s = [
        machine.block_s(float(mean_bytes), 2 * float(mean_elements)) for machine in file.machines
    ]
    usual_s = float(np.median(block_s))
    mean_work = float(np.mean(sizes.work))
    blocks = tuple(
        Block(
            work_s=usual_s * work / mean_work,
            parameter_bytes=size,
            output_bytes=sizes.output_bytes,
            cache_bytes=cache,
        )
        for work, size, cache in zip(sizes.work, sizes.block_bytes, sizes.cache_bytes, strict=True)
    )
    nodes = tuple(
        Node(
            name=machine.name,
            memory_bytes=machine.memory_bytes,
            speed=usual_s / own_s,
            stream_bytes_per_s=1e9 * machine.stream_gbs if machine.stream_gbs else None,
            overhead_s=machine.overhead_ms / 1e3,
        )
        for machine, own_s in zip(file.machines, block_s, strict=True)
    )
    rtt_ms, mbit = _links(file)
    _check_connected(rtt_ms, file)
    return Problem(blocks, nodes, rtt_ms / 2e3, mbit * MBIT_BYTES, sizes.output_bytes)


def _links(file: NodesFile) -> tuple[Floats, Floats]:
    """Round trip in ms and rate in Mbit/s, [from, to], the caller last; inf and 0 for no link."""
    ends = [*(machine.end for machine in file.machines), file.caller]
    places = {machine.name: place for place, machine in enumerate(file.machines)}
    places[CALLER] = len(file.machines)
    own_ms = np.array([inf if end.rtt_ms is None else end.rtt_ms for end in ends])
    rtt_ms = np.maximum(own_ms[:, None], own_ms)
    up, down = np.array([end.up_mbit for end in ends]), np.array([end.down_mbit for end in ends])
    mbit = np.minimum(up[:, None], down)
    for link in file.links:
        a, b = places[link.a], places[link.b]
        back = link.mbit if link.back_mbit is None else link.back_mbit
        for way, rate in (((a, b), link.mbit), ((b, a), back)):
            rtt_ms[way] = inf if link.rtt_ms is None else link.rtt_ms
            mbit[way] = mbit[way] if rate is None else rate
    return rtt_ms, mbit


def _check_connected(rtt_ms: Floats, file: NodesFile) -> None:
    reached = np.zeros(len(rtt_ms), dtype=bool)
    reached[-1] = True
    while (wider := reached | np.isfinite(rtt_ms[reached]).any(axis=0)).sum() > reached.sum():
        reached = wider
    lost = [
        machine.name for machine, found in zip(file.machines, reached, strict=False) if not found
    ]
    if lost:
        link = f'[[link]] a = "{lost[0]}", b = "{CALLER}", rtt_ms = 20'
        more = f" and {len(lost) - NAMED_MAX} more" if len(lost) > NAMED_MAX else ""
        names = ", ".join(lost[:NAMED_MAX]) + more
        raise BadInput(f"no link leads from the caller to {names}: give an rtt_ms, or {link}")


@dataclass(frozen=True, slots=True)
class Change:
    """What a plan would be with one machine more or less."""

    text: str
    before: Plan
    after: Plan | None
    why_not: str = ""
    """If there is no plan then, what would make one."""

    @property
    def tokens_per_s(self) -> float:
        """How many more a second than before, by the plan's objective; negative if fewer."""
        after = 1e3 / self.after.value_ms if self.after else 0.0
        return after - 1e3 / self.before.value_ms

    def sentence(self) -> str:
        """What it would do, for a person."""
        if self.after is None:
            return f"{self.text} would leave no plan: {self.why_not}"
        gain, total = self.tokens_per_s, 1e3 / self.after.value_ms
        verb = "add" if gain >= 0 else "cost"
        kind = "one stream" if self.after.objective == "latency" else "many streams"
        return f"{self.text} would {verb} {abs(gain):.1f} tokens/s: {total:.1f} for {kind}"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "change": self.text,
            "tokens_per_s": self.tokens_per_s,
            "plan": self.after.to_json() if self.after else None,
            "why_not": self.why_not or None,
        }


def changed(file: NodesFile, text: str) -> NodesFile:
    """The file after `add=NAME:key=value,…` or `remove=NAME`; raises BadInput."""
    kind, _, what = text.partition("=")
    if kind == "add":
        return file.adding(what)
    if kind == "remove":
        return file.removing(what)
    raise BadInput(f"--what-if wants add=NAME:memory=12GiB,block_ms=1 or remove=NAME, not {text!r}")
