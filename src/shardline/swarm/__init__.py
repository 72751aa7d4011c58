"""Who is in the swarm, who holds which blocks, and which nodes make a chain (BSNS, PAPER 1)."""

from shardline.swarm.certificates import TLS_NAME, issue_tls
from shardline.swarm.directories.memory import MemoryBoard, MemoryDirectory
from shardline.swarm.directories.zenoh import ZenohDirectory
from shardline.swarm.directory import Changed, Directory, Event, Joined, Left, Snapshot
from shardline.swarm.identity import Identity
from shardline.swarm.invite import Invite
from shardline.swarm.invite_store import InviteStore
from shardline.swarm.member import Member, MemoryBacking, membership
from shardline.swarm.placement import choose_span
from shardline.swarm.records import (
    CLOCK_SKEW_S,
    Foreign,
    NodeRecord,
    State,
    check_name,
    is_current,
    open_record,
    renew,
    sign,
)
from shardline.swarm.routing import Hop, choose_chain

__all__ = [
    "CLOCK_SKEW_S",
    "TLS_NAME",
    "Changed",
    "Directory",
    "Event",
    "Foreign",
    "Hop",
    "Identity",
    "Invite",
    "InviteStore",
    "Joined",
    "Left",
    "Member",
    "MemoryBacking",
    "MemoryBoard",
    "MemoryDirectory",
    "NodeRecord",
    "Snapshot",
    "State",
    "ZenohDirectory",
    "check_name",
    "choose_chain",
    "choose_span",
    "is_current",
    "issue_tls",
    "membership",
    "open_record",
    "renew",
    "sign",
]
