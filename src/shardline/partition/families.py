"""Seeded networks of six kinds, for tests and the benchmark; made up, in realistic sizes.

Nodes differ in speed (log-normal around 1) and memory (a few blocks to a few dozen, together at
least twice the model). Blocks are those of a large Llama: 5 ms and 1.7 GB each, 16 KiB a step.
Every link is off its rule by up to a tenth, as measured ones are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from shardline.partition.problem import Block, Node, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Network = tuple[Floats, Floats, Floats]
    """One-way delay in ms and rate in Mbit/s, [from, to], and a factor of each node's speed."""

__all__ = ["FAMILIES", "make"]

REGIONS = 6
_MBIT = 1e6 / 8


def _lan(size: int, _rng: np.random.Generator) -> Network:
    """One switch, 1 Gbit/s."""
    return np.full((size, size), 0.2), np.full((size, size), 1e3), np.ones(size)


def _clusters(size: int, _rng: np.random.Generator) -> Network:
    """Two LANs with a bridge of 50 Mbit/s and 20 ms."""
    side = np.arange(size) % 2
    same = side[:, None] == side[None, :]
    return np.where(same, 0.2, 20.0), np.where(same, 1e3, 50.0), np.ones(size)


def _star(size: int, rng: np.random.Generator) -> Network:
    """Everything passes a relay: delays add up, the slower spoke sets the rate."""
    delay = rng.uniform(2, 30, size)
    rate = rng.lognormal(np.log(80), 0.7, size)
    return delay[:, None] + delay, np.minimum(rate[:, None], rate), np.ones(size)


def _ring(size: int, _rng: np.random.Generator) -> Network:
    """Six regions on a ring: 15 ms and a share of 200 Mbit/s for every step between regions."""
    region = np.arange(size) % REGIONS
    apart = np.abs(region[:, None] - region)
    apart = np.minimum(apart, REGIONS - apart)
    rate = np.where(apart == 0, 1e3, 200 / np.maximum(apart, 1))
    return 0.5 + 15.0 * apart, rate, np.ones(size)


def _ends(size: int, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Delay, rate up and rate down of home links: slow up, faster down, delays with a long tail."""
    delay = rng.lognormal(np.log(8), 0.8, size)
    return delay, rng.lognormal(np.log(25), 0.8, size), rng.lognormal(np.log(120), 0.6, size)


def _homes(size: int, rng: np.random.Generator) -> Network:
    """Homes only: the sender's way up or the receiver's way down sets the rate."""
    delay, up, down = _ends(size, rng)
    return delay[:, None] + delay, np.minimum(up[:, None], down), np.ones(size)


def _mixed(size: int, rng: np.random.Generator) -> Network:
    """A quarter stands in one data centre, three times as fast; the rest are homes."""
    delay, up, down = _ends(size, rng)
    inside = np.arange(size) % 4 == 1
    delay, up, down = (
        np.where(inside, there, home) for there, home in ((1, delay), (1e4, up), (1e4, down))
    )
    both = inside[:, None] & inside
    delay = np.where(both, 0.1, delay[:, None] + delay)
    return delay, np.minimum(up[:, None], down), np.where(inside, 3.0, 1.0)


FAMILIES: dict[str, Callable[[int, np.random.Generator], Network]] = {
    "lan": _lan,
    "two-clusters": _clusters,
    "star": _star,
    "ring": _ring,
    "homes": _homes,
    "mixed": _mixed,
}


def make(family: str, nodes: int, blocks: int, seed: int = 0) -> Problem:
    """A problem of this family; the same arguments give the same problem."""
    key: list[int] = [seed, nodes, blocks, *family.encode()]
    rng = np.random.default_rng(key)
    delay_ms, rate_mbit, faster = FAMILIES[family](nodes + 1, rng)
    noise = rng.uniform(0.9, 1.1, (2, nodes + 1, nodes + 1))
    speed = rng.lognormal(0, 0.5, nodes) * faster[:nodes]
    drawn: Floats = rng.lognormal(0, 0.6, nodes)
    usual = max(6.0, 2.5 * blocks / nodes) / float(drawn.mean())
    room: Floats = np.maximum(1, np.round(drawn * usual))
    block = Block(
        work_s=0.005,
        parameter_bytes=1_600_000_000,
        cache_bytes=100_000_000,
        output_bytes=16_384,
        prefill_s=0.0004,
    )
    size = block.parameter_bytes + block.cache_bytes
    machines = [
        Node(
            name=f"n{place:03}",
            memory_bytes=int(room[place]) * size,
            speed=float(speed[place]),
            overhead_s=0.0005,
        )
        for place in range(nodes)
    ]
    return Problem(
        blocks=(block,) * blocks,
        nodes=tuple(machines),
        delay_s=1e-3 * delay_ms * noise[0],
        bytes_per_s=_MBIT * rate_mbit * noise[1],
        input_bytes=16_384,
    )
