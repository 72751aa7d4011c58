"""Made-up networks of the common kinds, by seed: what fingerprints are tried on.

The paper precomputes schemes "for common topological states" (PAPER section 3) and does not say
which; these six are ours. A round trip is a path over the net plus what each end adds (its access
line), times some luck. What a link carries is the lesser of one end's upload and the other's
download, as access lines bind before the net does; a bridge binds too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from shardline.topology.links import Probe

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["FAMILIES", "Network", "made_up", "probes"]

NODES_MIN = 3
JITTER: Final = 0.05
"""Luck of a link, as the deviation of the round trip's logarithm; no geometry explains it."""
_BRIDGE_MS: Final = 50.0
_BRIDGE_BYTES_PER_S: Final = 3e6


@dataclass(frozen=True, slots=True)
class Network:
    """The truth that probes sample; arrays are in the order of `nodes`."""

    nodes: tuple[str, ...]
    rtt_ms: NDArray[np.float64]
    """Symmetric, zero on the diagonal."""
    bytes_per_s: NDArray[np.float64]
    """From row to column; infinite on the diagonal."""


def _apart(points: Floats) -> Floats:
    return np.linalg.norm(points[:, None, :] - points[None, :, :], axis=-1)


def _ends(access_ms: Floats) -> Floats:
    return access_ms[:, None] + access_ms[None, :]


def _star(n: int, luck: np.random.Generator) -> Floats:
    """All paths pass one well-placed node; the others differ in how far they are from it."""
    access_ms = luck.lognormal(np.log(20.0), 0.3, n)
    access_ms[0] = 0.2
    return _ends(access_ms)


def _ring(n: int, luck: np.random.Generator) -> Floats:
    """Places around a ring, as on a long cable; half the way round takes 120 ms."""
    turn = (np.arange(n) + luck.uniform(-0.3, 0.3, n)) / n
    way = np.abs(turn[:, None] - turn[None, :]) % 1.0
    return 240.0 * np.minimum(way, 1.0 - way) + _ends(luck.uniform(0.2, 0.6, n))


def _bridge(n: int, luck: np.random.Generator) -> Floats:
    """Two local networks and one long line between a node of each."""
    points = luck.uniform(0.0, 3.0, (n, 2))
    inside = _apart(points) + _ends(luck.uniform(0.3, 1.0, n))
    np.fill_diagonal(inside, 0.0)
    second = np.arange(n) >= int(n * luck.uniform(0.35, 0.65))
    left, right = 0, n - 1
    line_ms = luck.uniform(_BRIDGE_MS, 2.4 * _BRIDGE_MS)
    over: Floats = np.add.outer(inside[:, left], inside[right]) + line_ms
    across = np.where(second[:, None], np.transpose(over), over)
    return np.where(second[:, None] == second[None, :], inside, across)


def _uniform(n: int, luck: np.random.Generator) -> Floats:
    """Nodes anywhere in a square of 100 ms, all on good lines."""
    return _apart(luck.uniform(0.0, 100.0, (n, 2))) + _ends(luck.uniform(0.5, 2.0, n))


def _long_tail(n: int, luck: np.random.Generator) -> Floats:
    """One region, and access lines from fibre to satellite (a Pareto tail)."""
    access_ms = 2.0 * (1.0 + luck.pareto(1.1, n))
    return _apart(luck.uniform(0.0, 10.0, (n, 2))) + _ends(np.minimum(access_ms, 400.0))


def _sites(n: int, luck: np.random.Generator) -> Floats:
    """A handful of machine rooms in a square of 150 ms."""
    count = max(2, min(6, n // 3))
    places = luck.uniform(0.0, 150.0, (count, 2))
    here = places[np.arange(n) % count] + luck.normal(0.0, 0.5, (n, 2))
    return _apart(here) + _ends(luck.uniform(0.1, 0.4, n))


FAMILIES: Final[dict[str, Callable[[int, np.random.Generator], Floats]]] = {
    "star": _star,
    "ring": _ring,
    "bridge": _bridge,
    "uniform": _uniform,
    "long-tail": _long_tail,
    "sites": _sites,
}
"""Round trips in ms of so many nodes, before jitter; the diagonal means nothing."""


def made_up(family: str, nodes: int, seed: int) -> Network:
    """A network of this family; the same for the same arguments. KeyError for an unknown one."""
    if nodes < NODES_MIN:
        raise ValueError(f"a network of {nodes} nodes has no shape: at least {NODES_MIN}")
    luck = np.random.default_rng([seed, nodes, sorted(FAMILIES).index(family)])
    rtt_ms = FAMILIES[family](nodes, luck)
    jitter = np.triu(luck.lognormal(0.0, JITTER, (nodes, nodes)), 1)
    rtt_ms = rtt_ms * (jitter + jitter.T)
    up = luck.lognormal(np.log(12e6), 0.8, nodes)
    down = up * luck.uniform(1.0, 6.0, nodes)
    bytes_per_s = np.minimum(up[:, None], down[None, :])
    if family == "bridge":
        over = rtt_ms > _BRIDGE_MS / 2
        bytes_per_s = np.where(over, np.minimum(bytes_per_s, _BRIDGE_BYTES_PER_S), bytes_per_s)
    bytes_per_s = bytes_per_s * luck.lognormal(0.0, JITTER, (nodes, nodes))
    np.fill_diagonal(bytes_per_s, np.inf)
    return Network(tuple(f"n{i:04d}" for i in range(nodes)), rtt_ms, bytes_per_s)


def probes(network: Network, *, links: int, seed: int, noise: float = 0.1) -> list[Probe]:
    """What nodes would report: each of `links` others, drawn at random, with this much luck.

    `noise` is the deviation of a measured value's logarithm. Ages are up to five minutes.
    """
    luck = np.random.default_rng([seed, 1])
    found: list[Probe] = []
    n = len(network.nodes)
    for i in range(n):
        others = np.delete(np.arange(n), i)
        for j in luck.choice(others, size=min(links, n - 1), replace=False):
            wrong = luck.lognormal(0.0, noise, 2)
            found.append(
                Probe(
                    network.nodes[i],
                    network.nodes[int(j)],
                    rtt_ms=float(network.rtt_ms[i, j] * wrong[0]),
                    bytes_per_s=float(network.bytes_per_s[i, j] * wrong[1]),
                    age_s=float(luck.uniform(0.0, 300.0)),
                )
            )
    return found
