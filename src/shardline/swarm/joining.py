"""Which blocks a newcomer takes where links are known: the nearest scheme is asked, too (PAPER 3).

`placement` says what the swarm lacks most, whatever the links are. If nothing is lacking, and a
plan after the nearest scheme would save so much that the others will move to it, the newcomer goes
where that plan wants it: unless a step would take longer so than where `placement` sends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from shardline.swarm.aims import aims_of
from shardline.swarm.placement import choose_span
from shardline.swarm.planned import gain_of
from shardline.swarm.records import State
from shardline.swarm.sight import sight_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardline.core.spans import Span
    from shardline.swarm.records import NodeRecord

__all__ = ["choose_place"]


def choose_place(records: Iterable[NodeRecord], newcomer: NodeRecord, *, step_bytes: int) -> Span:
    """The span for this newcomer, of as many blocks as it says that it has room for.

    Its record tells its rate and its own links, if it has measured them; which span it names does
    not count. `step_bytes` is what a step carries from block to block. Nodes of other models and
    dtypes are passed over. Raises ValueError if nothing fits.
    """
    ours = [
        record
        for record in records
        if record.node != newcomer.node
        and record.fingerprint == newcomer.fingerprint
        and record.dtype == newcomer.dtype
        and record.blocks == newcomer.blocks
        and record.state is not State.LEAVING
    ]
    lacked = choose_span(
        ours,
        blocks=newcomer.blocks,
        fits=newcomer.fits,
        block_steps_per_s=newcomer.block_steps_per_s,
    )
    there = msgspec.structs.replace(newcomer, start=lacked.start, stop=lacked.stop)
    sight = sight_of([*ours, there], step_bytes)
    if sight is None:
        return lacked
    aims = aims_of(sight)
    aim = aims.get(newcomer.node, lacked)
    if aim == lacked or not gain_of(sight, aims):
        return lacked
    return aim if sight.value_s({newcomer.node: aim.start}) <= sight.value_s() else lacked
