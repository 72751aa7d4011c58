"""The machines of a simulated swarm, and the record that they fill in."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from nacl.signing import SigningKey

from shardline.simulation.peer import Machine
from shardline.swarm import LINKS_TOLD, Identity, NodeRecord, State, record_life_s

if TYPE_CHECKING:
    from random import Random

    from shardline.simulation.network import Network
    from shardline.simulation.report import Settings

__all__ = ["WALL_S", "make_machines", "template"]

WALL_S = 1_800_000_000.0
"""When the simulated world begins, in seconds since 1970."""
RATE_STEPS_PER_S = 120.0
"""The median machine's; a tenth have less than half and a tenth more than twice of it."""
LOAD_BLOCK_S = (1.0, 8.0)
FITS_SHARE = (0.05, 0.3)
"""Share of the model that a machine has room for."""


def make_machines(
    settings: Settings, luck: Random, network: Network
) -> list[tuple[Machine, Identity]]:
    """Unequal machines, each with a key of its own that follows from the seed."""
    keys = [
        Identity(SigningKey(blake2b(f"{settings.seed} {number}".encode(), digest_size=32).digest()))
        for number in range(settings.nodes)
    ]
    made: list[tuple[Machine, Identity]] = []
    for number, identity in enumerate(keys):
        others = luck.sample(range(settings.nodes), min(LINKS_TOLD, settings.nodes))
        links = {
            keys[other].node_id: round(network.round_trip_ms(number, other), 3)
            for other in others
            if other != number
        }
        machine = Machine(
            number=number,
            node=identity.node_id,
            fits=max(1, round(settings.blocks * luck.uniform(*FITS_SHARE))),
            block_steps_per_s=round(RATE_STEPS_PER_S * luck.lognormvariate(0.0, 0.55), 3),
            load_block_s=luck.uniform(*LOAD_BLOCK_S),
            skew_s=luck.gauss(0.0, settings.skew_s),
            links=links,
        )
        made.append((machine, identity))
    return made


def template(machine: Machine, settings: Settings) -> NodeRecord:
    """What the machine's record says before it has a span."""
    return NodeRecord(
        node=machine.node,
        name=f"machine-{machine.number}",
        shardline="0.1.0",
        model="simulated",
        fingerprint="5" * 64,
        blocks=settings.blocks,
        start=0,
        stop=settings.blocks,
        state=State.LOADING,
        device="cpu",
        dtype="bfloat16",
        memory_bytes=2**33,
        memory_used_bytes=2**32,
        block_steps_per_s=machine.block_steps_per_s,
        links=machine.links,
        fits=machine.fits,
        issued_at_s=WALL_S,
        expires_at_s=WALL_S + record_life_s(settings.nodes),
    )
