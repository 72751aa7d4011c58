"""What is particular to iroh: strangers with raw streams, killed, frozen and busy processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Protocol, cast

import pytest

from shardline.core.errors import AddressTaken, BadInput, NodeLost
from shardline.wire import ChannelClosed, IrohSettings, IrohTransport
from shardline.wire.transports.iroh_engine import (
    ALPN,
    bind,
    endpoint_addr,
    load_iroh,
    parse_address,
    relay_mode,
)
from tests.conformance.transports import KeySigner

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shardline.core.ids import NodeId
    from shardline.wire import Pipe
    from shardline.wire.transports.iroh_types import BiStream, SendStream

DEADLINE_S = 15
LEASE_S = 1.0
NOBODY = "iroh/d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a/127.0.0.1:9"
HERE = IrohSettings("127.0.0.1:0", lease_s=LEASE_S)

pytestmark = pytest.mark.anyio


async def nobody(_: NodeId) -> list[str]:
    return []


def node(*known: str) -> IrohTransport:
    async def find(_: NodeId) -> tuple[str, ...]:
        return known

    return IrohTransport(HERE, KeySigner().node_id, find)


async def test_what_listens_on_loopback_listens_nowhere_else() -> None:
    async with node() as transport:
        address = parse_address(transport.address)
        assert address is not None
        assert {place.rpartition(":")[0] for place in address.direct} == {"127.0.0.1", "[::1]"}


async def test_a_taken_port_is_said() -> None:
    async with node() as transport:
        address = parse_address(transport.address)
        assert address is not None
        place = next(place for place in address.direct if place.startswith("127"))
        with pytest.raises(AddressTaken, match="cannot listen"):
            async with IrohTransport(IrohSettings(place), KeySigner().node_id, nobody):
                pass


@pytest.mark.parametrize(
    "settings",
    [
        IrohSettings("localhost:0"),
        IrohSettings("nowhere"),
        IrohSettings("127.0.0.1:0", relays=("nonsense",)),
    ],
    ids=["host name", "no port", "relay"],
)
async def test_settings_that_make_no_sense_are_refused(settings: IrohSettings) -> None:
    with pytest.raises(BadInput):
        async with IrohTransport(settings, KeySigner().node_id, nobody):
            pass


async def test_foreign_and_stale_addresses_are_passed_over() -> None:
    async with AsyncExitStack() as stack, asyncio.timeout(DEADLINE_S):
        called = await stack.enter_async_context(node())
        other = await stack.enter_async_context(node())
        known = ("tls/127.0.0.1:1", "iroh/junk", NOBODY, other.address, called.address)
        caller = await stack.enter_async_context(node(*known))
        near, far = await asyncio.gather(caller.open(called.me), called.accept())
        assert near.peer == called.me
        assert near.route == far.route == "direct"
        assert caller.route(called.me) == "direct"
        assert caller.route(other.me) is None


async def test_another_node_at_a_peers_address_is_not_the_peer() -> None:
    async with node() as other, node(other.address) as caller, asyncio.timeout(DEADLINE_S):
        with pytest.raises(NodeLost):
            await caller.open(KeySigner().node_id)


async def test_a_transport_leaves_at_once_while_callers_are_half_in() -> None:
    async with AsyncExitStack() as stack:
        dial = await stranger(stack)
        transport = node()
        async with transport:
            stream = await (await dial(transport.address)).open_bi()
            await stream.send().write_all(b"\x00")
            started = time.monotonic()
        assert time.monotonic() - started < 2


class RawConnection(Protocol):
    async def open_bi(self) -> BiStream: ...
    async def open_uni(self) -> SendStream: ...
    async def closed(self) -> str: ...


async def stranger(stack: AsyncExitStack) -> Callable[[str], Awaitable[RawConnection]]:
    """A raw endpoint's way to connect."""
    iroh = load_iroh()
    mode = relay_mode(iroh, ())
    endpoint = await bind(iroh, HERE, mode)
    stack.push_async_callback(endpoint.close)

    async def dial(text: str) -> RawConnection:
        address = parse_address(text)
        assert address is not None
        connection = await endpoint.connect(endpoint_addr(iroh, address, mode), ALPN)
        return cast("RawConnection", connection)

    return dial


def framed(*frames: bytes) -> bytes:
    return b"".join(len(frame).to_bytes(4) + frame for frame in frames)


async def send_raw(connection: RawConnection, data: bytes) -> None:
    await (await connection.open_bi()).send().write_all(data)


async def send_one_way(connection: RawConnection, data: bytes) -> None:
    await send_raw(connection, framed(bytes(32)))
    await (await connection.open_uni()).write_all(data)


async def send_twice(connection: RawConnection, data: bytes) -> None:
    await send_raw(connection, framed(bytes(32)))
    await send_raw(connection, data)


@pytest.mark.parametrize(
    ("misbehave", "data"),
    [
        (send_raw, framed(b"who am I?")),
        (send_raw, b"\xff\xff\xff\xff"),
        (send_raw, bytes(100)),
        (send_raw, framed(bytes(32), bytes(4_097))),
        (send_twice, b"x"),
        (send_one_way, b"x"),
    ],
    ids=["no id", "4 GiB", "empty frames", "too long", "two streams", "a one-way stream"],
)
async def test_a_stranger_without_manners_is_cut_off_and_others_are_not(
    misbehave: Callable[[RawConnection, bytes], Awaitable[None]], data: bytes
) -> None:
    async with AsyncExitStack() as stack, asyncio.timeout(DEADLINE_S):
        called = await stack.enter_async_context(node())
        caller = await stack.enter_async_context(node(called.address))
        near, far = await asyncio.gather(caller.open(called.me), called.accept())
        connection = await (await stranger(stack))(called.address)
        await misbehave(connection, data)
        await connection.closed()
        await near.send(b"still here")
        assert await far.receive() == b"still here"


async def test_callers_beyond_the_bound_are_refused() -> None:
    async with AsyncExitStack() as stack, asyncio.timeout(DEADLINE_S):
        called = await stack.enter_async_context(node())
        dial = await stranger(stack)
        connections: list[RawConnection] = []

        async def crowd() -> None:
            for _ in range(100):
                connections.append(await dial(called.address))
                await send_raw(connections[-1], framed(bytes(32)))

        with pytest.raises(load_iroh().IrohError):
            await crowd()
        assert 60 <= len(connections) <= 64  # who is just coming in may count twice


CHILD = """
import asyncio, sys, time
from shardline.wire import IrohSettings, IrohTransport
async def find(_):
    return [sys.argv[1]]
async def main():
    async with IrohTransport(IrohSettings("127.0.0.1:0", lease_s=1.0), sys.argv[2], find) as me:
        pipe = await me.open(sys.argv[3])
        await pipe.receive()
        time.sleep(2.5)
        await pipe.send(b"I was busy")
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def with_a_process(
    use: Callable[[Pipe, asyncio.subprocess.Process], Awaitable[None]],
) -> None:
    """Let another process call us, and use its pipe."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    async with asyncio.timeout(DEADLINE_S), node() as transport:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", CHILD, transport.address, KeySigner().node_id, transport.me),
            env=environment,
        )
        try:
            await use(await transport.accept(), process)
        finally:
            with suppress(ProcessLookupError):  # it was the test that killed it
                process.kill()
            await process.wait()


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_a_process_that_falls_silent_is_noticed_within_its_lease(
    sign: signal.Signals,
) -> None:
    async def lose(pipe: Pipe, process: asyncio.subprocess.Process) -> None:
        process.send_signal(sign)
        started = time.monotonic()
        with pytest.raises(ChannelClosed, match="silent"):
            await pipe.receive()
        assert time.monotonic() - started < 2 * LEASE_S

    await with_a_process(lose)


async def test_a_busy_process_keeps_its_pipes() -> None:
    async def wait(pipe: Pipe, _: asyncio.subprocess.Process) -> None:
        await pipe.send(b"be busy")
        assert await pipe.receive() == b"I was busy"

    await with_a_process(wait)


async def test_a_full_link_takes_nothing_at_once_and_does_not_hold_the_loop() -> None:
    async def fill(pipe: Pipe, process: asyncio.subprocess.Process) -> None:
        process.send_signal(signal.SIGSTOP)
        taken = 0
        while pipe.send_now(bytes(2**16)) or await taken_soon(pipe):
            taken += 2**16
        assert taken < 32 * 2**20
        with pytest.raises(ChannelClosed):
            await pipe.send(bytes(2**20))

    await with_a_process(fill)


async def taken_soon(pipe: Pipe) -> bool:
    """Whether the link takes a frame within a moment; the pipe is given up if not."""
    with suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            await pipe.send(bytes(2**16))
            return True
    return False
