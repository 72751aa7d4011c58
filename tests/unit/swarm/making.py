"""Records for tests, and a clock that stands still until it is moved."""

from __future__ import annotations

import msgspec

from shardline.core.ids import NodeId
from shardline.swarm import NodeRecord, State

NOW_S = 1_800_000_000.0


class HandClock:
    """A Clock that tests move."""

    def __init__(self, now_s: float = NOW_S) -> None:
        self.now_s = now_s

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s


def node_id(number: int) -> NodeId:
    return NodeId(f"{number:064x}")


def record(node: NodeId | int = 1, start: int = 0, stop: int = 4, **changes: object) -> NodeRecord:
    plain = NodeRecord(
        node=node_id(node) if isinstance(node, int) else node,
        name="attic",
        shardline="0.1.0",
        model="tiny-stories",
        fingerprint="f00d",
        blocks=8,
        start=0,
        stop=8,
        state=State.READY,
        device="cpu",
        dtype="float32",
        memory_bytes=2**30,
        sequence=1,
        issued_at_s=NOW_S,
        expires_at_s=NOW_S + 60,
    )
    return msgspec.structs.replace(plain, **({"start": start, "stop": stop} | changes))
