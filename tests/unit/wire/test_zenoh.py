"""What is particular to zenoh: joining, strangers at its keys, killed and frozen processes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Protocol, cast

import psutil
import pytest

from shardline.core.errors import AddressTaken, BadInput, ForeignInvite, NodeLost, Unsupported
from shardline.wire import (
    ChannelClosed,
    TlsFiles,
    ZenohEngine,
    ZenohSettings,
    ZenohTransport,
    open_zenoh,
    split_address,
)
from tests.conformance.transports import KeySigner, throwaway_tls

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import zenoh

    from shardline.core.ids import NodeId
    from shardline.wire import Pipe

DEADLINE_S = 15
HERE = "127.0.0.1:0"

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def tls() -> TlsFiles:
    return throwaway_tls()


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


async def test_the_real_port_is_told(tls: TlsFiles) -> None:
    async with open_zenoh(ZenohSettings(HERE, tls=tls)) as engine:
        (address,) = engine.listening
        _, port = split_address(address)
        assert port
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            pass


async def test_a_taken_port_is_said_before_anything_starts(tls: TlsFiles) -> None:
    async with open_zenoh(ZenohSettings(HERE, tls=tls)) as engine:
        with pytest.raises(AddressTaken, match="in use"):
            async with open_zenoh(ZenohSettings(engine.listening[0], tls=tls)):
                pass


@pytest.mark.parametrize("address", ["192.0.2.1:0", "no.such.host.invalid:0"])
async def test_an_address_that_is_not_ours_is_refused(address: str) -> None:
    with pytest.raises(AddressTaken, match="cannot listen"):
        async with open_zenoh(ZenohSettings(address)):
            pass


@pytest.mark.parametrize("text", ["", "host", ":1", "host:", "host:x", "h:65536", "::1:7", "[h]:1"])
def test_what_is_no_address_is_bad_input(text: str) -> None:
    with pytest.raises(BadInput, match="HOST:PORT"):
        split_address(text)


def test_addresses_are_split() -> None:
    assert split_address("example.org:7000") == ("example.org", 7000)
    assert split_address("[::1]:0") == ("::1", 0)


async def test_a_node_that_is_its_own_bootstrap_starts_alone(tls: TlsFiles) -> None:
    address = free_address()
    async with (
        asyncio.timeout(2),
        open_zenoh(ZenohSettings(address, (address,), tls=tls)) as engine,
    ):
        assert engine.listening == (address,)


async def test_no_answer_at_any_address_names_them_within_seconds(tls: TlsFiles) -> None:
    addresses = (free_address(), free_address())
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(NodeLost, match="cannot be reached") as caught:
            async with open_zenoh(ZenohSettings(None, addresses, tls=tls)):
                pass
    assert all(address in str(caught.value) for address in addresses)


async def test_ipv6_addresses_over_tls_are_refused_with_the_way_out(tls: TlsFiles) -> None:
    with pytest.raises(Unsupported, match="host name"):
        async with open_zenoh(ZenohSettings(None, ("[::1]:7000",), tls=tls)):
            pass


async def test_one_live_address_among_dead_ones_is_enough(tls: TlsFiles) -> None:
    async with open_zenoh(ZenohSettings(HERE, tls=tls)) as first, asyncio.timeout(DEADLINE_S):
        addresses = (free_address(), *first.listening)
        async with open_zenoh(ZenohSettings(None, addresses, tls=tls)):
            pass


async def test_another_swarms_certificates_are_a_foreign_invite(tls: TlsFiles) -> None:
    async with open_zenoh(ZenohSettings(HERE, tls=tls)) as first, asyncio.timeout(DEADLINE_S):
        with pytest.raises(ForeignInvite, match=first.listening[0]):
            async with open_zenoh(ZenohSettings(None, first.listening, tls=throwaway_tls())):
                pass


async def test_clients_that_listen_nowhere_can_be_called_by_all(tls: TlsFiles) -> None:
    async with AsyncExitStack() as stack, asyncio.timeout(DEADLINE_S):

        async def join(listen: str | None, *known: str) -> tuple[ZenohTransport, tuple[str, ...]]:
            settings = ZenohSettings(listen, known, tls=tls)
            engine = await stack.enter_async_context(open_zenoh(settings))
            transport = ZenohTransport(engine, "test", KeySigner().node_id)
            return await stack.enter_async_context(transport), engine.listening

        first, known = await join(HERE)
        second, _ = await join(HERE, *known)
        client, nowhere = await join(None, *known)
        assert nowhere == ()
        for node in (first, second):
            near, far = await asyncio.gather(node.open(client.me), client.accept())
            await near.send(b"called")
            assert await far.receive() == b"called"


def break_links(spared: str) -> None:
    """Break this process's connections, but for those with who listens there."""
    _, port = split_address(spared)
    for end in psutil.Process().net_connections("tcp"):
        if end.raddr and port not in {end.laddr[1], end.raddr[1]}:
            with suppress(OSError), socket.socket(fileno=os.dup(end.fd)) as link:
                link.shutdown(socket.SHUT_RDWR)  # unless it was closed in between


@pytest.mark.parametrize("listen", [HERE, None])
async def test_a_broken_link_is_dialled_again_though_both_ends_have_others(
    tls: TlsFiles, listen: str | None
) -> None:
    """Of who listens, and of a caller, who does not."""
    async with AsyncExitStack() as stack, asyncio.timeout(DEADLINE_S):

        async def join(listen: str | None, *known: str) -> tuple[ZenohTransport, tuple[str, ...]]:
            opening = open_zenoh(ZenohSettings(listen, known, tls=tls))
            engine = await stack.enter_async_context(opening)
            transport = ZenohTransport(engine, "test", KeySigner().node_id, open_s=DEADLINE_S)
            return await stack.enter_async_context(transport), engine.listening

        _, hub = await join(HERE)
        other, _ = await join(HERE, *hub)
        one, here = await join(listen, *hub)
        assert bool(here) is (listen is not None)
        for _ in range(3):
            near, far = await asyncio.gather(one.open(other.me), other.accept())
            break_links(*hub)
            for pipe in (near, far):
                with pytest.raises(ChannelClosed):
                    await pipe.receive()


async def test_garbage_at_our_keys_is_survived(tls: TlsFiles) -> None:
    """A member of the swarm with a raw session, and no manners."""
    async with AsyncExitStack() as stack, asyncio.timeout(DEADLINE_S):
        first = await stack.enter_async_context(open_zenoh(ZenohSettings(HERE, tls=tls)))
        settings = ZenohSettings(None, first.listening, tls=tls)
        other = await stack.enter_async_context(open_zenoh(settings))
        me = KeySigner().node_id
        transport = await stack.enter_async_context(ZenohTransport(first, "test", me))
        await _publish_garbage(other.session, f"test/to/{me}")
        caller = ZenohTransport(other, "test", KeySigner().node_id)
        caller = await stack.enter_async_context(caller)
        near, far = await asyncio.gather(caller.open(me), transport.accept())
        await near.send(b"well-behaved")
        assert await far.receive() == b"well-behaved"


class _Puts(Protocol):
    def put(self, key_expr: str, payload: bytes) -> None: ...


async def _publish_garbage(session: zenoh.Session, root: str) -> None:
    put = cast("_Puts", session).put
    for key in ("a/b", "x" * 500 + "/y", "ü/ö", f"{'a' * 64}/{'b' * 32}", f"{'A' * 64}/{'b' * 32}"):
        for payload in (b"", b"junk", bytes(100_000)):
            await asyncio.to_thread(put, f"{root}/{key}", payload)
    for number in range(500):  # knocks that nobody can be answered at
        await asyncio.to_thread(put, f"{root}/{'c' * 64}/{number:032x}", b"")


CHILD = """
import asyncio, sys
from shardline.wire import ZenohSettings, ZenohTransport, open_zenoh
async def main():
    settings = ZenohSettings(None, (sys.argv[1],), lease_s=1.0)
    async with open_zenoh(settings) as engine, ZenohTransport(engine, "test", sys.argv[2]) as me:
        await me.open(sys.argv[3])
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def lose_a_process(
    sign: signal.Signals, meanwhile: Callable[[Pipe], Awaitable[None]] | None = None
) -> float:
    """Seconds until the pipe of a process that gets this signal is over here."""
    loop = asyncio.get_running_loop()
    me, child = KeySigner().node_id, KeySigner().node_id
    settings = ZenohSettings(HERE, lease_s=1.0)
    async with open_zenoh(settings) as engine, ZenohTransport(engine, "test", me) as transport:
        process = await _spawn(engine.listening[0], child, me)
        try:
            pipe = await transport.accept()
            process.send_signal(sign)
            signalled = loop.time()
            if meanwhile is not None:
                await meanwhile(pipe)
            with pytest.raises(ChannelClosed):
                await pipe.receive()
            return loop.time() - signalled
        finally:
            with suppress(ProcessLookupError):  # it was the test that killed it
                process.kill()
            await process.wait()


async def _spawn(address: str, child: NodeId, me: NodeId) -> asyncio.subprocess.Process:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, address, child, me, env=environment
    )


async def test_a_killed_process_is_noticed_at_once() -> None:
    async with asyncio.timeout(DEADLINE_S):
        assert await lose_a_process(signal.SIGKILL) < 0.5


async def test_a_frozen_process_is_noticed_within_its_lease() -> None:
    async with asyncio.timeout(DEADLINE_S):
        assert await lose_a_process(signal.SIGSTOP) < 3


async def test_a_frozen_process_does_not_hold_the_event_loop() -> None:
    longest_s = 0.0

    async def send_one(pipe: Pipe) -> None:
        nonlocal longest_s
        started = time.monotonic()
        taken = pipe.send_now(bytes(16_384))
        longest_s = max(longest_s, time.monotonic() - started)
        if not taken:
            await pipe.send(bytes(16_384))

    async def send_without_end(pipe: Pipe) -> None:
        with suppress(ChannelClosed):
            while True:
                await send_one(pipe)

    async with asyncio.timeout(DEADLINE_S):
        await lose_a_process(signal.SIGSTOP, send_without_end)
    assert longest_s < 0.5


async def _can_call(caller: ZenohTransport, called: ZenohTransport) -> None:
    """Frames go from one to the other, as soon as the engine has told them of each other."""
    while True:
        with suppress(NodeLost):
            near, far = await asyncio.gather(caller.open(called.me), called.accept())
            break
    await near.send(b"called")
    assert await far.receive() == b"called"


async def test_who_goes_through_one_is_called_by_those_who_listen_nowhere(tls: TlsFiles) -> None:
    async with AsyncExitStack() as stack, asyncio.timeout(DEADLINE_S):

        async def join(settings: ZenohSettings) -> tuple[ZenohTransport, ZenohEngine]:
            engine = await stack.enter_async_context(open_zenoh(settings))
            transport = ZenohTransport(engine, "test", KeySigner().node_id)
            return await stack.enter_async_context(transport), engine

        _, first = await join(ZenohSettings(HERE, tls=tls))
        known = first.listening
        behind, engine = await join(ZenohSettings(None, known, tls=tls, through_one=True))
        other, _ = await join(ZenohSettings(None, known, tls=tls, through_one=True))
        client, _ = await join(ZenohSettings(None, known, tls=tls))
        assert engine.dialled == known
        await _can_call(client, behind)
        await _can_call(behind, other)


async def test_who_goes_through_one_takes_the_next_when_that_ends(tls: TlsFiles) -> None:
    async with AsyncExitStack() as stack, asyncio.timeout(DEADLINE_S):
        ending = await stack.enter_async_context(AsyncExitStack())
        first = await ending.enter_async_context(open_zenoh(ZenohSettings(HERE, tls=tls)))
        settings = ZenohSettings(HERE, first.listening, tls=tls)
        second = await stack.enter_async_context(open_zenoh(settings))
        known = (free_address(), *first.listening, *second.listening)
        settings = ZenohSettings(None, known, tls=tls, through_one=True)
        engine = await stack.enter_async_context(open_zenoh(settings))
        assert engine.dialled == first.listening
        await ending.aclose()
        while engine.dialled != second.listening:  # noqa: ASYNC110 - its own event comes sooner
            await asyncio.sleep(0.01)


async def test_known_addresses_are_dialled_and_never_blamed(tls: TlsFiles) -> None:
    async with AsyncExitStack() as stack, asyncio.timeout(DEADLINE_S):
        first = await stack.enter_async_context(open_zenoh(ZenohSettings(HERE, tls=tls)))
        gone, wrong = free_address(), free_address()
        strangers = ZenohSettings(wrong, tls=throwaway_tls())
        await stack.enter_async_context(open_zenoh(strangers))
        settings = ZenohSettings(None, (gone,), tls, known=(wrong, *first.listening))
        async with open_zenoh(settings):
            pass
        with pytest.raises(NodeLost, match=gone) as caught:
            async with open_zenoh(ZenohSettings(None, (gone,), tls, known=(wrong,))):
                pass
        assert wrong not in str(caught.value)
