"""Swarms of unequal nodes as `reality` makes them: drawn by a seed, and as the planner's problem.

What a node is given is a delay for each block and a cable of its own. What everything really takes
besides is measured once on this machine, on a swarm that is none of those that are predicted.
"""

from __future__ import annotations

import random
import statistics
from dataclasses import asdict, dataclass
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from shardline.cli.local import NAMES
from shardline.partition import Block, Node, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardline.cli.planning import Sizes

__all__ = ["Costs", "Machine", "draw", "line", "problem_of", "spread", "summary", "tokens_per_s"]

NODES = (3, 5)
BLOCK_MS = (2.0, 30.0)
LATENCY_MS = (1.0, 20.0)
MBITS = (inf, 20.0, 5.0, 2.0)
ROOMY = 1.5
"""All memory together holds so many times the model, or more: else there is nothing to choose."""
BYTES_OF_MBIT = 1e6 / 8
UNEQUAL = 3.0
"""From this `spread` on a swarm counts as unequal."""
ERROR_GOAL = 0.15
RATIO_GOAL = 1.3


@dataclass(frozen=True, slots=True)
class Machine:
    """One node, as it is made unequal."""

    name: str
    room: int
    """Blocks that its memory holds, with their cache."""
    block_ms: float
    """How long it sleeps for each block, beside computing it."""
    latency_ms: float
    """What its cable adds, each way."""
    mbit: float = inf
    """How fast its cable is."""

    def to_json(self) -> dict[str, Any]:
        """Plain data; None for a cable without a limit."""
        return asdict(self) | ({"mbit": None} if self.mbit == inf else {})


@dataclass(frozen=True, slots=True)
class Costs:
    """What this machine and this program take, whatever is added to it."""

    block_ms: tuple[float, ...]
    """A decode step of each block, by its profile."""
    hop_ms: float
    """From one process to the next: codecs, frames, wake-ups, and what sleeping takes longer."""
    frame_bytes: float
    """What a decode step sends from one to the next, with all that is around it."""
    caller_ms: float
    """The caller's own part of a token: embeddings, head, choosing."""


def draw(seed: int, blocks: int) -> tuple[Machine, ...]:
    """Three to five nodes; memory, pace and cable have nothing to do with each other."""
    luck = random.Random(seed)  # noqa: S311 - made-up swarms
    while True:
        machines = tuple(
            Machine(
                name,
                room=luck.randint(2, blocks - 1),
                block_ms=round(_log_uniform(luck, *BLOCK_MS), 1),
                latency_ms=round(_log_uniform(luck, *LATENCY_MS), 1),
                mbit=luck.choice(MBITS),
            )
            for name in NAMES[: luck.randint(*NODES)]
        )
        if sum(machine.room for machine in machines) >= ROOMY * blocks:
            return machines


def _log_uniform(luck: random.Random, low: float, high: float) -> float:
    return low * (high / low) ** luck.random()


def problem_of(machines: Sequence[Machine], sizes: Sizes, costs: Costs) -> Problem:
    """The swarm in the planner's words: what was added and what everything takes anyway."""
    parts = zip(costs.block_ms, sizes.block_bytes, sizes.cache_bytes, strict=True)
    frame_bytes = round(costs.frame_bytes)
    blocks = tuple(Block(ms / 1e3, size, frame_bytes, cache) for ms, size, cache in parts)
    mean_ms = statistics.mean(costs.block_ms)
    room_bytes = max(map(sum, zip(sizes.block_bytes, sizes.cache_bytes, strict=True)))
    nodes = tuple(
        Node(
            machine.name,
            memory_bytes=machine.room * room_bytes,
            speed=mean_ms / (mean_ms + machine.block_ms),
        )
        for machine in machines
    )
    ends = [*machines, None]
    ways = np.array([_end(end) for end in ends])
    delay_ms = costs.hop_ms + ways[:, None, 0] + ways[:, 0]
    with np.errstate(divide="ignore"):
        bytes_per_s = 1 / (ways[:, None, 1] + ways[:, 1])
    return Problem(blocks, nodes, delay_ms / 1e3, bytes_per_s, frame_bytes)


def _end(machine: Machine | None) -> tuple[float, float]:
    """The delay of this end's cable in ms, and its seconds for a byte; the caller has none."""
    if machine is None:
        return 0.0, 0.0
    return machine.latency_ms, 1 / (machine.mbit * BYTES_OF_MBIT)


def tokens_per_s(bottleneck_ms: float, token_ms: float, streams: int) -> float:
    """Of all streams: each waits for its own token, and all for the slowest stage."""
    return 1e3 * min(streams / token_ms, 1 / bottleneck_ms)


def spread(machines: Sequence[Machine]) -> float:
    """How many times as long the slowest node takes for a block as the quickest."""
    paces = [machine.block_ms for machine in machines]
    return max(paces) / min(paces)


def summary(cases: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """A line of the report for each swarm, and those that count."""
    rows = [(f"swarm {case['swarm']}, {len(case['machines'])} nodes", line(case), "")
            for case in cases]  # fmt: skip
    placed = [case[method] for case in cases for method in ("plan", "memory")]
    for told, what in (("predicted", "from what was added"), ("told", "from what nodes tell")):
        errors = [abs(each[told] / each["measured"] - 1) for each in placed if each[told]]
        if errors:
            shown = f"{statistics.median(errors):.1%} median, {max(errors):.1%} worst"
            goal = f"at most {ERROR_GOAL:.0%} median" if told == "predicted" else ""
            rows.append((f"error of the prediction {what}, {len(errors)} placements", shown, goal))
    unequal = [case for case in cases if case["spread"] >= UNEQUAL]
    of_unequal = f"{len(unequal)} swarms whose slowest node is {UNEQUAL:.0f} times the quickest"
    for those, which, goal in (
        (cases, "all swarms", ""),
        (unequal, of_unequal, f"at least {RATIO_GOAL}"),
    ):
        if those:
            ratios = sorted(case["ratio"] for case in those)
            shown = (
                f"{statistics.median(ratios):.2f} median, {ratios[0]:.2f} to {ratios[-1]:.2f}, "
                f"{sum(ratio >= RATIO_GOAL for ratio in ratios)} of {len(ratios)} reach it"
            )
            rows.append((f"the plan's tokens/s over memory-proportional, {which}", shown, goal))
    return rows


def line(case: dict[str, Any]) -> str:
    """What came of one swarm."""
    shown = [
        f"{name}: {case[key]['measured']:.1f} tokens/s, predicted {case[key]['predicted']:.1f}"
        + (f", told {case[key]['told']:.1f}" if case[key]["told"] else "")
        for name, key in (("plan", "plan"), ("by memory", "memory"))
    ]
    return "; ".join([*shown, f"{case['ratio']:.2f} times"])
