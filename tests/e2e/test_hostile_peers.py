"""Members that break the protocol are cut off or told; the nodes serve everybody else on.

Mallory holds the invite and says what she likes. After each of her tricks an honest caller gets
the tokens of one process from the same nodes, which are real ones behind real sealed channels.
Her steps are in `test_hostile_steps.py`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import time
from typing import TYPE_CHECKING, Any

import pytest
from anyio.from_thread import start_blocking_portal

from shardline.codec import pack
from shardline.node.outbox import AGAIN_MAX
from shardline.node.tasks import UNDER_WAY_MAX
from shardline.node.worker import SEATS_MAX
from shardline.swarm import State
from shardline.wire import (
    FRAME_BYTES_MAX,
    ChannelClosed,
    Close,
    Failed,
    Open,
    Opened,
    Ping,
    Reroute,
    Result,
    Step,
)
from tests.e2e.mallory import (
    DEADLINE_S,
    Impostor,
    Mallory,
    ends,
    impostor_in,
    mallory_of,
    raw_pipe,
    shake_hands,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from anyio.from_thread import BlockingPortal

    from shardline.client import Swarm
    from shardline.core.segments import Segment
    from shardline.model import Crossing
    from shardline.swarm import NodeRecord
    from shardline.wire import Message
    from tests.e2e.conftest import Ended, Honest

    Reply = tuple[Message, Sequence[Segment]] | None


# --- OPENS ---


def test_a_session_in_anothers_name_is_cut_off(
    play: Callable[..., list[str]], nodes: list[NodeRecord]
) -> None:
    async def trick(mallory: Mallory) -> None:
        await mallory.say(mallory.opening(caller=nodes[1].node))
        await mallory.is_cut_off()
        assert mallory.heard == []

    (line,) = play(trick)
    assert "another node's name" in line


def test_a_session_opened_again_starts_anew_and_reserves_once(
    play: Callable[..., list[str]], crossing: Crossing, nodes: list[NodeRecord]
) -> None:
    async def trick(mallory: Mallory) -> None:
        await mallory.gets_all_of_the_cache()
        everything = nodes[0].cache_tokens_total
        session = await mallory.opens(tokens=everything)
        for again in range(3):
            await mallory.say(mallory.step(session), pack(crossing.to_tree()))
            await mallory.hears(Result, again + 1)
            await mallory.opens(session=session, tokens=everything)
        first, *others = mallory.bodies_of(Result)
        assert all(body == first for body in others), "the cache was not empty"
        assert mallory.all_heard(Failed) == []
        await mallory.say(Close(session))
        await mallory.arrives()

    assert play(trick) == []


def test_a_seat_that_another_has_is_not_given(
    swarm: Swarm, nodes: list[NodeRecord], play: Callable[..., list[str]], crossing: Crossing
) -> None:
    async def trick(mallory: Mallory) -> None:
        async with mallory_of(swarm, nodes) as other:
            session = await other.opens()
            await mallory.say(mallory.opening(session=session))
            assert (await mallory.hears(Failed)).kind == "PeerFault"
            await other.say(other.step(session), pack(crossing.to_tree()))
            await other.hears(Result)
            assert mallory.all_heard(Result) == []

    assert play(trick) == []


def test_sessions_opened_and_closed_in_one_breath_leave_nothing_behind(
    play: Callable[..., list[str]],
) -> None:
    async def trick(mallory: Mallory) -> None:
        for _ in range(100):
            opening = mallory.opening(tokens=1_000)
            await mallory.say(opening)
            await mallory.say(Close(opening.session))
        await mallory.gets_all_of_the_cache()

    assert play(trick) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"batch": 0},
        {"tokens": 0},
        {"tokens": -1},
        {"batch": 2**40},
        {"start": -5},
        {"session": "x"},
    ],
    ids=str,
)
def test_a_session_of_nonsense_is_cut_off(
    play: Callable[..., list[str]], fields: dict[str, Any]
) -> None:
    async def trick(mallory: Mallory) -> None:
        await mallory.say(mallory.opening(**fields))
        await mallory.is_cut_off()

    assert len(play(trick)) == 1


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"tokens": 2**31 - 1}, "CacheFull", "cache tokens were asked"),
        ({"tokens": 2**31 - 1, "batch": 2**31 - 1}, "CacheFull", "cache tokens were asked"),
        ({"stop": 4}, "TryElsewhere", "holds blocks 0:1"),
        ({"start": 2**31 - 2, "stop": 2**31 - 1}, "TryElsewhere", "holds blocks 0:1"),
        ({"start": 1, "stop": 0}, "TryElsewhere", "holds blocks 0:1"),
        ({"model": "another"}, "TryElsewhere", "serves model"),
    ],
    ids=str,
)
def test_a_session_that_the_node_cannot_hold_is_told_why(
    play: Callable[..., list[str]], fields: dict[str, Any], kind: str, words: str
) -> None:
    async def trick(mallory: Mallory) -> None:
        await mallory.say(mallory.opening(**fields))
        failed = await mallory.hears(Failed)
        assert failed.kind == kind
        assert words in failed.text
        assert not mallory.lost

    assert play(trick) == []


def test_many_sessions_of_one_caller_find_an_end_leave_some_and_go_with_it(
    swarm: Swarm, nodes: list[NodeRecord], play: Callable[..., list[str]]
) -> None:
    async def trick(mallory: Mallory) -> None:
        async with mallory_of(swarm, nodes) as greedy:
            for _ in range(SEATS_MAX + 10):
                await greedy.say(greedy.opening(tokens=1))
            await greedy.hears(Opened, SEATS_MAX)
            failed = await greedy.hears(Failed, 10)
            assert failed.kind == "CacheFull"
            assert str(SEATS_MAX) in failed.text
            assert not greedy.lost
            await mallory.opens()
        await mallory.say(Close(mallory.all_heard(Opened)[0].session))
        mallory.heard.clear()
        await mallory.gets_all_of_the_cache()

    assert play(trick) == []


def test_a_flood_of_sessions_finds_an_end(
    play: Callable[..., list[str]], crossing: Crossing, gate: Callable[[], None]
) -> None:
    async def trick(mallory: Mallory) -> None:
        session = await mallory.opens()
        await mallory.say(mallory.step(session), pack(crossing.to_tree()))  # the engine waits
        asked = 3 * UNDER_WAY_MAX
        for number in range(asked):
            await mallory.say(mallory.opening(tokens=1))
            if number % 100 == 0:
                await mallory.arrives()  # she listens, too
        await mallory.hears(Failed, asked - SEATS_MAX + 1)
        gate()
        await mallory.hears(Opened, SEATS_MAX)
        assert {word.kind for word in mallory.all_heard(Failed)} == {"CacheFull"}

    assert play(trick) == []


def test_a_stream_that_is_sent_to_somebody_else_finds_an_end(
    swarm: Swarm, nodes: list[NodeRecord], play: Callable[..., list[str]], crossing: Crossing
) -> None:
    async def trick(mallory: Mallory) -> None:
        async with impostor_in(swarm, nodes[0], state=State.LEAVING) as victim:
            session = await mallory.opens(next=victim.me)
            await mallory.say(mallory.step(session), pack(crossing.to_tree()))
            await victim.hears(Step)
            for again in range(AGAIN_MAX):
                await mallory.say(Reroute(session, 0, victim.me))
                await victim.hears(Step, again + 2)
            for _ in range(3):
                await mallory.say(Reroute(session, 0, victim.me))
            assert (await mallory.hears(Failed, 3)).kind == "JournalLost"
            await victim.member.switchboard.ping(nodes[0].node)
            assert len(victim.all_heard(Step)) == 1 + AGAIN_MAX

    assert play(trick) == []


def test_closing_and_answering_what_is_not_ones_own_changes_nothing(
    swarm: Swarm, nodes: list[NodeRecord], play: Callable[..., list[str]], crossing: Crossing
) -> None:
    async def trick(mallory: Mallory) -> None:
        async with mallory_of(swarm, nodes) as other:
            session = await other.opens()
            for word in (
                Close(session),
                Reroute(session, 0, mallory.me),
                mallory.opened(mallory.opening(session=session)),
                Result(session, 0, []),
                Failed(session, 0, nodes[0].node, "PeerFault", "nonsense"),
            ):
                await mallory.say(word)
            await mallory.member.switchboard.ping(nodes[0].node)  # all of it has arrived
            await other.say(other.step(session), pack(crossing.to_tree()))
            await other.hears(Result)
            assert (await mallory.hears(Failed)).kind == "SessionUnknown"
            assert len(mallory.heard) == 1

    assert play(trick) == []


# --- BYTES ---


@pytest.fixture
def send_raw(
    swarm: Swarm,
    nodes: list[NodeRecord],
    honest: Honest,
    caplog: pytest.LogCaptureFixture,
) -> Callable[[bytes, bool], list[str]]:
    """Put bytes on a node's pipe, before or after an honest handshake; what was logged."""

    def run(data: bytes, sealed: bool) -> list[str]:  # noqa: FBT001
        async def scene() -> None:
            async with raw_pipe(swarm.invite, nodes[0].node) as (pipe, credentials):
                if sealed:
                    established = await shake_hands(pipe, credentials)
                    data_sealed = established.sealer.seal((data,), len(data))
                    await pipe.send(data_sealed)
                else:
                    await pipe.send(data)
                await ends(pipe)

        with start_blocking_portal("asyncio", name="mallory") as portal:
            portal.call(scene)
        honest()
        return [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]

    return run


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", b"\0", os.urandom(74), b"shardln\n\0\1", os.urandom(5_000)],
    ids=["HTTP", "a zero", "noise", "a head", "too much"],
)
def test_a_stranger_to_the_handshake_is_refused(
    send_raw: Callable[[bytes, bool], list[str]], data: bytes
) -> None:
    (line,) = send_raw(data, False)  # noqa: FBT003
    assert line.startswith("refused a caller")


FRAMES = {
    "noise": os.urandom(300),
    "nothing": b"",
    "an endless message": struct.pack("<II", 2**32 - 1, 0) + bytes(8),
    "endless segments": struct.pack("<II", 16, 2**32 - 1) + bytes(24),
    "a segment longer than the frame": struct.pack("<IIQ", 16, 1, 2**63) + bytes(32),
    "a message beyond its bound": struct.pack("<II", 2**17, 0) + bytes(2**17 + 8),
    "a message of no kind": struct.pack("<II", 8, 0) + b"\x91\xa4evil\xc0\xc0",
}


@pytest.mark.parametrize("what", FRAMES)
def test_a_sealed_frame_of_garbage_is_cut_off(
    send_raw: Callable[[bytes, bool], list[str]], what: str
) -> None:
    (line,) = send_raw(FRAMES[what], True)  # noqa: FBT003
    assert line.startswith("cut off node")


def test_an_oversized_frame_is_cut_off(
    swarm: Swarm, nodes: list[NodeRecord], honest: Honest
) -> None:
    async def scene() -> None:
        async with raw_pipe(swarm.invite, nodes[0].node) as (pipe, credentials):
            established = await shake_hands(pipe, credentials)
            size = FRAME_BYTES_MAX + 2**20
            await pipe.send(established.sealer.seal((bytes(size),), size))
            with contextlib.suppress(ChannelClosed):
                await pipe.send(established.sealer.seal((b"",), 0))
            await ends(pipe)

    with start_blocking_portal("asyncio", name="mallory") as portal:
        portal.call(scene)
    honest()


def test_a_flood_of_pings_is_answered_or_cut_off(play: Callable[..., list[str]]) -> None:
    async def trick(mallory: Mallory) -> None:
        with contextlib.suppress(ChannelClosed):
            for nonce in range(20_000):
                await mallory.say(Ping(nonce))

    play(trick)


# --- NODES THAT ARE NOT WHAT THEY SAY ---


@pytest.fixture
def portal() -> Generator[BlockingPortal]:
    with start_blocking_portal("asyncio", name="impostor") as portal:
        yield portal


def test_a_node_that_refuses_every_session_is_gone_around(
    swarm: Swarm, nodes: list[NodeRecord], honest: Honest, portal: BlockingPortal
) -> None:
    def refuse(impostor: Impostor, message: Message) -> Reply:
        if isinstance(message, Open):
            return Failed(message.session, None, impostor.me, "CacheFull", "full"), ()
        return None

    with portal.wrap_async_context_manager(impostor_in(swarm, nodes[0], refuse)) as impostor:
        honest()
        assert any(isinstance(word, Open) for word in impostor.heard), "nobody asked it"


def test_what_peers_write_does_nothing_to_a_terminal(
    swarm: Swarm, nodes: list[NodeRecord], portal: BlockingPortal, shardline: Callable[..., Ended]
) -> None:
    joining = impostor_in(swarm, nodes[0], name="[/red]:dog:", model="[bold]x[/nothing]")
    with portal.wrap_async_context_manager(joining):
        deadline_s = time.monotonic() + DEADLINE_S
        while "[/red]:dog:" not in {record.name for record in swarm.nodes_now()}:
            assert time.monotonic() < deadline_s, "nobody hears of it"
        ended = shardline("status", "--join", swarm.invite.encode())
    assert (ended.code, ended.err) == (0, "")
    assert "[/red]:dog:" in ended.out
    assert "[bold]x" in ended.out
