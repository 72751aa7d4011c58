"""A place in a swarm whose directory is a DHT (decisions 0002, 0007).

The DHT's daemon listens where the invite says, HOST:PORT/PEER, and zenoh, which carries the
activations and nothing else, on the next port; over iroh (`nat`) there is no zenoh. So one address
leads to both, and who has the invite finds the nodes.
"""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

from shardline.core.errors import AddressTaken, BadInput
from shardline.swarm.certificates import issue_tls
from shardline.swarm.directories.dht import DhtDirectory
from shardline.swarm.directories.dht_engine import open_dht
from shardline.swarm.directories.dht_hivemind import DhtSettings
from shardline.swarm.directories.dht_names import listen_at, multiaddr, own_seed, peer_id
from shardline.swarm.places import Place, through_nats
from shardline.wire import (
    ZenohSettings,
    ZenohTransport,
    claim_address,
    is_own_address,
    join_address,
    open_zenoh,
    split_address,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from shardline.core.clock import Clock
    from shardline.core.signer import Signer
    from shardline.swarm.invite import Invite
    from shardline.swarm.places import Dialling

__all__ = ["dht_place"]

PORT_TRIES: Final = 5
_PORT_MAX: Final = 2**16 - 1


@asynccontextmanager
async def dht_place(
    invite: Invite, identity: Signer, dialling: Dialling, clock: Clock
) -> AsyncGenerator[Place]:
    """A place in a network of machines whose records are in a DHT; raises what `open_dht` does."""
    here = None if dialling.listen is None else _claim_two(dialling.listen, invite)
    settings, listening = _settings(invite, identity, dialling, here)
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(open_dht(settings, invite.prefix))
        directory = DhtDirectory(engine, identity, clock)
        if invite.nat is not None:
            transport = through_nats(invite.nat, dialling.listen, identity.node_id, directory)
            yield Place(transport, directory, listening)
            return
        places = {_links_at(place): place for place in dialling.bootstrap + dialling.known}
        zenoh = await stack.enter_async_context(
            open_zenoh(
                ZenohSettings(
                    listen=None if here is None else _links_at(here),
                    connect=tuple(map(_links_at, dialling.bootstrap)),
                    known=tuple(map(_links_at, dialling.known)),
                    tls=issue_tls(invite, clock=clock),
                    through_one=dialling.relayed,
                )
            )
        )

        def through() -> str:
            dialled = next(iter(zenoh.dialled), "") if dialling.relayed else ""
            return places.get(dialled, dialled)

        transport = ZenohTransport(zenoh, invite.prefix, identity.node_id)
        yield Place(transport, directory, listening, through)


def _settings(
    invite: Invite, identity: Signer, dialling: Dialling, here: str | None
) -> tuple[DhtSettings, tuple[str, ...]]:
    """How to join the DHT, and where we are then, as an invite writes it.

    Who listens where the invite says that its founder does is that, and so is the first one.
    """
    places = dict.fromkeys(dialling.bootstrap + dialling.known)
    founder = peer_id(invite.founder_seed)
    own = {place for place in places if is_own_address(_where(place), here)}
    founds = here is not None and (not places or any(place.endswith(founder) for place in own))
    seed = invite.founder_seed if founds else own_seed(identity, invite.prefix)
    me = peer_id(seed)
    peers = [place for place in places if place not in own and not place.endswith(me)]
    if here is None:
        if not peers:
            raise BadInput("the invite names nobody to dial: take one that a serving node prints")
        return DhtSettings(listen=(), peers=tuple(map(multiaddr, peers)), seed=seed), ()
    host, port = split_address(here)
    settings = DhtSettings(
        listen=(listen_at(_ip(host), port),),
        peers=tuple(map(multiaddr, peers)),
        founds=founds,
        seed=seed,
    )
    return settings, (f"{here}/{me}",)


def _claim_two(listen: str, invite: Invite) -> str:
    """The address with its real port, which is free, and so is the next one, if it is needed."""
    asked = split_address(listen)[1]
    if asked == _PORT_MAX:
        raise BadInput(f"a DHT needs the port after {asked} too: give a lower one")
    for left in reversed(range(PORT_TRIES)):
        here = claim_address(listen)
        if invite.nat is not None:
            return here
        try:
            claim_address(_links_at(here))
        except (AddressTaken, BadInput):  # with port 0 there are more to choose from
            if asked or not left:
                raise
        else:
            return here
    raise AssertionError("unreachable")


def _where(place: str) -> str:
    return place.partition("/")[0]


def _links_at(place: str) -> str:
    """Where the member at this place takes links."""
    host, port = split_address(_where(place))
    return join_address(host, port + 1)


def _ip(host: str) -> str:
    """The daemon listens on addresses only."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return str(found[0][4][0])
