"""Who is in the swarm, who holds which blocks, and which nodes make a chain (BSNS, PAPER 1)."""

from shardline.swarm.bans import Bans
from shardline.swarm.certificates import TLS_NAME, issue_tls
from shardline.swarm.directories.dht import DhtDirectory
from shardline.swarm.directories.dht_engine import DhtEngine, open_dht
from shardline.swarm.directories.dht_hivemind import DhtSettings
from shardline.swarm.directories.memory import MemoryBoard, MemoryDirectory
from shardline.swarm.directories.zenoh import ZenohDirectory
from shardline.swarm.directory import Changed, Directory, Event, Joined, Left, Snapshot
from shardline.swarm.follower import Follower
from shardline.swarm.identity import Identity
from shardline.swarm.invite import DIRECTORIES, Invite
from shardline.swarm.invite_store import AddressBook, InviteStore
from shardline.swarm.joining import choose_place
from shardline.swarm.journal import Entry, Journals
from shardline.swarm.member import Member, membership
from shardline.swarm.pacing import HEARTBEAT_S, LINKS_TOLD, heartbeat_s, record_life_s
from shardline.swarm.placement import choose_span, throughputs
from shardline.swarm.places import MemoryBacking, Place
from shardline.swarm.rebalancing import (
    SETTLE_S,
    TURN_S,
    Move,
    best_move,
    decide,
    may_move,
    swarm_throughput,
)
from shardline.swarm.records import (
    CLOCK_SKEW_S,
    PINGS_KEPT,
    Flow,
    Foreign,
    NodeRecord,
    State,
    check_name,
    is_current,
    open_record,
    renew,
    sign,
)
from shardline.swarm.recovery import Gap, first_gap, mend
from shardline.swarm.routing import WEIGHTS, Hop, Weights, choose_chain
from shardline.swarm.stragglers import Stragglers
from shardline.swarm.view import View

__all__ = [
    "CLOCK_SKEW_S",
    "DIRECTORIES",
    "HEARTBEAT_S",
    "LINKS_TOLD",
    "PINGS_KEPT",
    "SETTLE_S",
    "TLS_NAME",
    "TURN_S",
    "WEIGHTS",
    "AddressBook",
    "Bans",
    "Changed",
    "DhtDirectory",
    "DhtEngine",
    "DhtSettings",
    "Directory",
    "Entry",
    "Event",
    "Flow",
    "Follower",
    "Foreign",
    "Gap",
    "Hop",
    "Identity",
    "Invite",
    "InviteStore",
    "Joined",
    "Journals",
    "Left",
    "Member",
    "MemoryBacking",
    "MemoryBoard",
    "MemoryDirectory",
    "Move",
    "NodeRecord",
    "Place",
    "Snapshot",
    "State",
    "Stragglers",
    "View",
    "Weights",
    "ZenohDirectory",
    "best_move",
    "check_name",
    "choose_chain",
    "choose_place",
    "choose_span",
    "decide",
    "first_gap",
    "heartbeat_s",
    "is_current",
    "issue_tls",
    "may_move",
    "membership",
    "mend",
    "open_dht",
    "open_record",
    "record_life_s",
    "renew",
    "sign",
    "swarm_throughput",
    "throughputs",
]
