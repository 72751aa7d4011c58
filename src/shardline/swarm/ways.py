"""What it costs to hand a step from node to node, as far as anybody measured it (PAPER 3).

Records tell round trips and rates to some others. `topology` makes one matrix of them and estimates
the rest, so every node that sees the same records works out the same ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import starmap
from math import inf, log
from typing import TYPE_CHECKING, Final

import numpy as np

from shardline.core.ids import NodeId
from shardline.swarm.routing import WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shardline.swarm.capacity import Floats
    from shardline.swarm.records import NodeRecord

__all__ = ["WAYS_NODES_MAX", "Ways", "ways_of"]

WAYS_NODES_MAX: Final = 128
"""In larger swarms links are not looked at: the matrix of 128 takes 0.3 s, one of 512 several. What
a look at moves takes grows with the square."""
RTT_LEAST_MS: Final = 0.01
_KBIT_BYTES = 125.0

_Measured = tuple[NodeId, NodeId, float | None, float | None]
"""From, to, the round trip in ms, bytes a second."""


@dataclass(frozen=True, slots=True, eq=False)
class Ways:
    """All links between some nodes, in the order of their ids; arrays are [from, to]."""

    nodes: tuple[NodeId, ...]
    delay_s: Floats
    """One way, what a hop costs beside the link included; 0 from a node to itself."""
    bytes_per_s: Floats
    """Infinite where no rate is known at all."""
    step_bytes: int
    """What one step of one sequence carries from block to block."""

    @property
    def hop_s(self) -> Floats:
        """One way of one step, its bytes included."""
        return self.delay_s + self.step_bytes / self.bytes_per_s


def ways_of(records: Sequence[NodeRecord], *, step_bytes: int = 0) -> Ways | None:
    """The links between these nodes; None if nobody measured any, or if the nodes are too many.

    How old a record is does not count: those who see the same records have to find the same.
    """
    from shardline.topology import Probe, link_matrix  # noqa: PLC0415 - callers never look

    nodes = sorted({record.node for record in records})
    if len(nodes) > WAYS_NODES_MAX:
        return None
    measured = list(_measured(records, set(nodes)))
    if not measured:
        return None
    rtt_ms = _all_trips_ms(nodes, measured)
    bytes_per_s = np.full((len(nodes), len(nodes)), inf)
    rates_known = any(rate for *_, rate in measured)
    if rates_known or rtt_ms is None:
        matrix = link_matrix(nodes, starmap(Probe, measured))
        rtt_ms, bytes_per_s = matrix.rtt_ms, matrix.bytes_per_s if rates_known else bytes_per_s
    delay_s = rtt_ms / 2e3 + WEIGHTS.hop_ms / 1e3
    np.fill_diagonal(delay_s, 0.0)
    return Ways(tuple(nodes), delay_s, bytes_per_s, step_bytes)


def _all_trips_ms(nodes: Sequence[NodeId], measured: Sequence[_Measured]) -> Floats | None:
    """The mean of both ends' logarithms; None if any is missing: then `topology` estimates, which
    takes a hundred times as long."""
    place = {node: row for row, node in enumerate(nodes)}
    logs = np.full((len(nodes), len(nodes)), np.nan)
    for one, other, rtt_ms, _ in measured:
        if rtt_ms is not None:
            logs[place[one], place[other]] = log(max(rtt_ms, RTT_LEAST_MS))
    np.fill_diagonal(logs, -inf)
    both = np.where(np.isnan(logs), logs.T, logs), np.where(np.isnan(logs.T), logs, logs.T)
    if np.isnan(both[0]).any():
        return None
    return np.asarray(np.exp((both[0] + both[1]) / 2))


def _measured(records: Sequence[NodeRecord], here: set[NodeId]) -> Iterator[_Measured]:
    """What everybody measured of the ways to those who are here."""
    for record in records:
        for node, rtt_ms, flow in record.measured():
            if node in here and node != record.node:
                yield record.node, node, rtt_ms, flow.up_kbit_s * _KBIT_BYTES or None
                yield node, record.node, None, flow.down_kbit_s * _KBIT_BYTES or None
