"""What a simulated swarm is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from shardline.core.errors import BadInput

__all__ = ["Report", "Settings", "Tally"]

NODES_MAX = 4_096
HOURS_MAX = 24.0 * 31
BLOCKS_MAX = 1_024


@dataclass(frozen=True, slots=True)
class Settings:
    """One simulated swarm; equal settings give equal runs. Raises BadInput for nonsense."""

    nodes: int = 1_000
    """Machines; each is on for a while, off for a while."""
    hours: float = 24.0
    seed: int = 0
    blocks: int = 80
    up_hours: float = 24.0
    """How long a machine stays on, on the average."""
    down_minutes: float = 20.0
    """How long it stays off."""
    pauses_per_day: float = 0.2
    """How often a machine freezes, for 1 to 30 s."""
    cuts_per_day: float = 2.0
    """How often a part of the machines is cut off from the rest, for 5 to 120 s."""
    loss: float = 0.005
    """Share of messages that have to be sent again."""
    skew_s: float = 2.0
    """Standard deviation of the machines' clocks."""
    requests_per_hour: float = 12.0
    lease_s: float = 3.0
    """After how long a silent link is taken for dead; the engine's setting."""

    def __post_init__(self) -> None:
        bounds = {
            "nodes": (1, NODES_MAX),
            "hours": (0.01, HOURS_MAX),
            "seed": (0, 2**63 - 1),
            "blocks": (1, BLOCKS_MAX),
            "up_hours": (0.01, 1e6),
            "down_minutes": (0.1, 1e6),
            "pauses_per_day": (0.0, 1e3),
            "cuts_per_day": (0.0, 1e3),
            "loss": (0.0, 0.5),
            "skew_s": (0.0, 600.0),
            "requests_per_hour": (0.0, 3_600.0),
            "lease_s": (0.1, 600.0),
        }
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise BadInput(f"--{name.replace('_', '-')} {value} is not within {least}:{most}")


@dataclass(slots=True)
class Tally:
    """What is counted while the world runs."""

    joins: int = 0
    deaths: int = 0
    pauses: int = 0
    cuts: int = 0
    join_s: list[float] = field(default_factory=list[float])
    """How long each join took until all reachable views held it."""
    death_s: list[float] = field(default_factory=list[float])
    moves: int = 0
    moves_given_up: int = 0
    heard_bytes: float = 0.0
    up_s: float = 0.0
    """Summed over the machines."""
    coverage_lost_s: float = 0.0
    served: int = 0
    retried: int = 0
    """Nodes of a chain that did not answer, another chain being there."""
    mended: int = 0
    """Served requests whose chain lost a node and got a replacement."""
    failed: int = 0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `shardline simulate swarm --json` prints."""

    nodes: int
    hours: float
    seed: int
    blocks: int
    converged_p50_s: float
    """Until all reachable views hold a join, or have dropped a death: over all of these."""
    converged_p99_s: float
    converged_max_s: float
    join_p99_s: float
    death_p99_s: float
    bytes_per_s_per_node: float
    """What a member hears, records and signs of life; the engine's own keep-alives are not in."""
    coverage_lost_s: float
    """Seconds in which some block had no ready node, after all had one for the first time."""
    joins: int
    deaths: int
    pauses: int
    cuts: int
    moves: int
    moves_given_up: int
    balance: float
    """At the end: the worst block's throughput as a share of the mean, which is the best bound."""
    served: int
    retried: int
    mended: int
    failed: int
    views_agree: bool
    """Whether at the very end, after a quiet minute, every view held exactly the live nodes."""
    trace: str
    """Equal for equal runs."""
    seconds: float
    """Real time that the simulation took."""
