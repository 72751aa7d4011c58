"""How often a node speaks, so that what each hears stays bounded however many there are (PAPER 1).

Every record reaches every member: with a fixed heartbeat, what one member hears grows with the
swarm. So the heartbeat slows down with the nodes seen, and hearing stays at RECORDS_PER_S. Joins
and deaths do not wait for it: presence tells them, and a changed state or span is published at
once. What waits is how full and how fast a node is.
"""

from __future__ import annotations

from shardline.swarm.records import LIFE_MAX_S

__all__ = ["HEARTBEAT_S", "LINKS_TOLD", "heartbeat_s", "record_life_s"]

HEARTBEAT_S = 5.0
"""The shortest wait between two records. Shorter tells callers sooner who is full."""
RECORDS_PER_S = 20.0
"""What a member hears in a large swarm. More is fresher and costs every member more."""
MISSED = 8
"""Heartbeats that may be lost until a record ends; presence notices a death long before."""
LINKS_TOLD = 24
"""Links in one record: each costs every member 88 bytes a heartbeat (decision 0014)."""


def heartbeat_s(nodes: int) -> float:
    """Seconds between two records of one node, in a swarm of so many."""
    return min(max(HEARTBEAT_S, nodes / RECORDS_PER_S), LIFE_MAX_S / MISSED)


def record_life_s(nodes: int) -> float:
    """For how long a record of this swarm should count, in seconds."""
    return min(max(60.0, MISSED * heartbeat_s(nodes)), LIFE_MAX_S)
