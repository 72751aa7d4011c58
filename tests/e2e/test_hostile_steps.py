"""Steps that no honest caller sends: the node tells or cuts off whoever does, and serves on.

See `test_hostile_peers.py` for Mallory, and for everything else that she says.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import torch

from shardline.codec import Marker, pack, unpack
from shardline.core.ids import new_session_id
from shardline.model import Crossing, Returned
from shardline.node.outbox import AGAIN_MAX
from shardline.node.worker import HOPS_MAX
from shardline.swarm import Identity
from shardline.wire import Failed, Result, Spent
from tests.e2e.mallory import Mallory, mallory_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardline.client import Swarm
    from shardline.swarm import NodeRecord
    from tests.e2e.conftest import Honest


def changed(crossing: Crossing, **fields: Any) -> list[memoryview]:
    return pack(crossing.to_tree() | fields)


def with_hidden(crossing: Crossing, hidden: torch.Tensor) -> list[memoryview]:
    return changed(crossing, carried=(hidden,))


def headed(*headers: object, root: object = None) -> bytes:
    return msgspec.msgpack.encode([list(headers), root])


def nested(depth: int) -> Any:
    return (nested(depth - 1),) if depth else 0


def foreign_marker(crossing: Crossing) -> list[memoryview]:
    call = crossing.calls[0]
    calls = ((call.args, call.kwargs | {"past_key_values": Marker("secret", 9)}),)
    return changed(crossing, calls=calls)


def short_of_bytes(crossing: Crossing) -> list[memoryview]:
    first, second, *rest = pack(crossing.to_tree())
    return [first, second[:-4], *rest]


GARBAGE: dict[str, Callable[[Crossing], list[Any]]] = {
    "no segments": lambda _: [],
    "an empty segment": lambda _: [b""],
    "no MessagePack": lambda _: [b"\xc1\xc1\xc1"],
    "random bytes": lambda _: [os.urandom(1000), os.urandom(1000)],
    "other fields": lambda _: pack({"hello": 1}),
    "no tree at all": lambda _: pack(3),
    "a result": lambda c: pack(Returned(c.carried[0]).to_tree()),
    "a tensor that was not sent": lambda c: pack(c.to_tree())[:-1],
    "a tensor too many": lambda c: [*pack(c.to_tree()), b"1234"],
    "fewer bytes than the header says": short_of_bytes,
    "a header of a terabyte": lambda _: [headed(["raw", "float32", [2**40]]), b"1234"],
    "a header of 2 to the 64": lambda _: [headed(["raw", "float32", [2**63 - 1] * 8]), b"1234"],
    "a header with a negative size": lambda _: [headed(["raw", "float32", [-1, -1]]), b"1234"],
    "a header of a thousand dimensions": lambda _: [headed(["raw", "int8", [1] * 1000]), b"1"],
    "a codec nobody knows": lambda _: [headed(["zip", "float32", [1]]), b"1234"],
    "a type nobody knows": lambda _: [headed(["raw", "object", [1]]), b"12345678"],
    "a tree too deep": lambda _: pack(nested(40)),
    "a tree far too deep": lambda _: [b"\x92\x90" + b"\x92\xa1u\x91" * 100_000 + b"\xc0"],
    "a tree too wide": lambda _: pack((0,) * 70_000),
    "a structure too large": lambda _: [b"\x00" * 9 * 2**20],
    "integers": lambda c: with_hidden(c, c.carried[0].long()),
    "complex numbers": lambda c: with_hidden(c, c.carried[0].to(torch.complex64)),
    "a wrong width": lambda c: with_hidden(c, c.carried[0][..., :-8]),
    "a missing dimension": lambda c: with_hidden(c, c.carried[0][0]),
    "no tokens": lambda c: with_hidden(c, c.carried[0][:, :0]),
    "two hidden states": lambda c: changed(c, carried=c.carried * 2),
    "a hidden state and a number": lambda c: changed(c, carried=(*c.carried, torch.ones(()))),
    "a text as hidden state": lambda c: changed(c, carried=("hello",)),
    "a block that the node does not hold": lambda c: changed(c, start=1, order=(0,) * 3),
    "a block before the first": lambda c: changed(c, start=-1),
    "a block beyond all": lambda c: changed(c, start=10**12),
    "fewer blocks than there are": lambda c: changed(c, order=(0,)),
    "a call that is not there": lambda c: changed(c, order=(7,) * 4),
    "calls that are no pairs": lambda c: changed(c, calls=(3,)),
    "no hidden state in the call": lambda c: changed(c, calls=(((), {}),)),
    "a marker of something else": foreign_marker,
}


@pytest.mark.parametrize("what", GARBAGE)
def test_a_step_that_is_garbage_is_told_and_cut_off(
    play: Callable[..., list[str]], crossing: Crossing, what: str
) -> None:
    async def trick(mallory: Mallory) -> None:
        session = await mallory.opens()
        await mallory.say(mallory.step(session), GARBAGE[what](crossing))
        failed = await mallory.hears(Failed)
        assert failed.kind == "PeerFault", failed
        assert "\n" not in failed.text
        await mallory.is_cut_off()

    (line,) = play(trick)
    assert line.startswith("cut off node")
    assert "\n" not in line


def shapes_that_clash(crossing: Crossing) -> list[memoryview]:
    call = crossing.calls[0]
    wrong = {
        name: torch.ones(3, 7, 11) if isinstance(value, torch.Tensor) else value
        for name, value in call.kwargs.items()
    }
    wrong["position_embeddings"] = (torch.ones(1, 4, 3), torch.ones(1, 4, 5))
    return changed(crossing, calls=((call.args, wrong),))


NONSENSE: dict[str, Callable[[Crossing], list[Any]]] = {
    "side inputs of other shapes": shapes_that_clash,
    "another float type": lambda c: with_hidden(c, c.carried[0].double()),
    "inputs of another name": lambda c: changed(
        c, calls=((c.calls[0].args, c.calls[0].kwargs | {"hidden_states": Marker("cache")}),)
    ),
    "text for numbers": lambda c: changed(
        c,
        calls=((c.calls[0].args, dict.fromkeys(c.calls[0].kwargs, "x")),),
    ),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_a_step_that_no_block_can_compute_is_told(
    play: Callable[..., list[str]], crossing: Crossing, what: str
) -> None:
    async def trick(mallory: Mallory) -> None:
        session = await mallory.opens()
        await mallory.say(mallory.step(session), NONSENSE[what](crossing))
        failed = await mallory.hears(Failed)
        assert failed.kind == "StepFailed", failed
        assert "\n" not in failed.text
        # The session's cache is spoilt: it is gone, and Mallory is still there to be told.
        await mallory.say(mallory.step(session, 1), pack(crossing.to_tree()))
        assert (await mallory.hears(Failed, 2)).kind == "SessionUnknown"

    play(trick)


def test_numbers_that_are_none_go_through(
    play: Callable[..., list[str]], crossing: Crossing
) -> None:
    async def trick(mallory: Mallory) -> None:
        session = await mallory.opens()
        nothing = torch.full_like(crossing.carried[0], float("nan"))
        await mallory.say(mallory.step(session), with_hidden(crossing, nothing))
        # node 0 holds one block, and sends the crossing to the caller as it was told to
        await mallory.hears(Result)
        onward = Crossing.from_tree(unpack(mallory.bodies[-1]))
        assert onward.carried[0].isnan().all()

    assert play(trick) == []


def test_a_step_of_an_unknown_session_is_told(
    play: Callable[..., list[str]], crossing: Crossing
) -> None:
    async def trick(mallory: Mallory) -> None:
        await mallory.say(mallory.step(new_session_id()), pack(crossing.to_tree()))
        assert (await mallory.hears(Failed)).kind == "SessionUnknown"
        assert not mallory.lost

    assert play(trick) == []


def test_a_step_beyond_what_was_reserved_is_told_what_was(
    play: Callable[..., list[str]], crossing: Crossing
) -> None:
    async def trick(mallory: Mallory) -> None:
        session = await mallory.opens(tokens=3)
        await mallory.say(mallory.step(session), pack(crossing.to_tree()))
        failed = await mallory.hears(Failed)
        assert failed.kind == "CacheFull"
        assert "1 x 3" in failed.text
        rows = torch.cat([crossing.carried[0]] * 2)
        await mallory.say(mallory.step(session), with_hidden(crossing, rows[:, :1]))
        assert (await mallory.hears(Failed, 2)).kind == "CacheFull"

    assert play(trick) == []


def test_a_step_that_too_many_have_signed_is_cut_off(
    play: Callable[..., list[str]], crossing: Crossing
) -> None:
    async def trick(mallory: Mallory) -> None:
        session = await mallory.opens()
        spent = [Spent("m", 1)] * HOPS_MAX
        await mallory.say(mallory.step(session, 0, spent), pack(crossing.to_tree()))
        await mallory.is_cut_off()

    assert len(play(trick)) == 1


def test_steps_at_once_are_taken_one_after_the_other(
    play: Callable[..., list[str]], crossing: Crossing, gate: Callable[[], None]
) -> None:
    async def trick(mallory: Mallory) -> None:
        session = await mallory.opens()
        for step in range(5):
            await mallory.say(mallory.step(session, step), pack(crossing.to_tree()))
        await mallory.arrives()
        assert len(mallory.heard) == 1, "the engine waits, and nothing goes on"
        gate()
        await mallory.hears(Result, 5)
        assert [word.step for word in mallory.all_heard(Result)] == [0, 1, 2, 3, 4]

    assert play(trick) == []


def test_a_step_said_again_is_answered_again_and_computed_once(
    play: Callable[..., list[str]], crossing: Crossing
) -> None:
    async def trick(mallory: Mallory) -> None:
        session = await mallory.opens(tokens=crossing.tokens)
        for _ in range(1 + AGAIN_MAX):
            await mallory.say(mallory.step(session), pack(crossing.to_tree()))
        await mallory.hears(Result, 1 + AGAIN_MAX)
        first, *others = mallory.bodies_of(Result)
        assert all(body == first for body in others)
        await mallory.say(mallory.step(session), pack(crossing.to_tree()))
        assert (await mallory.hears(Failed)).kind == "JournalLost"

    assert play(trick) == []


def test_a_step_before_its_turn_is_told(play: Callable[..., list[str]], crossing: Crossing) -> None:
    async def trick(mallory: Mallory) -> None:
        session = await mallory.opens()
        await mallory.say(mallory.step(session, 7), pack(crossing.to_tree()))
        failed = await mallory.hears(Failed)
        assert (failed.kind, failed.step) == ("SessionUnknown", 7)
        await mallory.say(mallory.step(session), pack(crossing.to_tree()))
        await mallory.hears(Result)

    assert play(trick) == []


def test_a_caller_that_vanishes_in_mid_step_leaves_nothing_behind(
    swarm: Swarm,
    nodes: list[NodeRecord],
    play: Callable[..., list[str]],
    crossing: Crossing,
    gate: Callable[[], None],
) -> None:
    async def trick(mallory: Mallory) -> None:
        async with mallory_of(swarm, nodes) as gone:
            session = await gone.opens()
            await gone.say(gone.step(session), pack(crossing.to_tree()))
        gate()
        await mallory.gets_all_of_the_cache()

    assert play(trick) == []


def test_a_node_that_hands_a_bad_step_on_is_not_blamed(
    play: Callable[..., list[str]], crossing: Crossing, nodes: list[NodeRecord]
) -> None:
    async def trick(mallory: Mallory) -> None:
        session = await mallory.opens(next=nodes[1].node)
        await mallory.opens(at=1, session=session)
        spent = [Spent("m", 1)] * (HOPS_MAX - 1)  # the first node may sign, the second may not
        await mallory.say(mallory.step(session, 0, spent), pack(crossing.to_tree()))
        failed = await mallory.hears(Failed)
        assert (failed.kind, failed.node) == ("PeerFault", nodes[1].node)
        assert nodes[0].node not in mallory.lost

    (line,) = play(trick)
    assert "handed on" in line


def test_a_step_that_leads_nowhere_is_told(
    play: Callable[..., list[str]], crossing: Crossing
) -> None:
    async def trick(mallory: Mallory) -> None:
        nobody = Identity.ephemeral().node_id
        session = await mallory.opens(next=nobody)
        await mallory.say(mallory.step(session), pack(crossing.to_tree()))
        failed = await mallory.hears(Failed)
        assert failed.kind == "NodeLost"
        assert nobody[:8] in failed.text

    assert play(trick) == []


def test_a_chain_that_leads_back_to_itself_ends(
    play: Callable[..., list[str]], crossing: Crossing, nodes: list[NodeRecord]
) -> None:
    async def trick(mallory: Mallory) -> None:
        session = await mallory.opens(next=nodes[0].node)
        await mallory.say(mallory.step(session), pack(crossing.to_tree()))
        failed = await mallory.hears(Failed)
        assert (failed.kind, failed.node) == ("SessionUnknown", nodes[0].node)
        assert "no seat at block 1" in failed.text

    assert play(trick) == []


def test_an_honest_caller_leaves_nothing_behind(
    honest: Honest, play: Callable[..., list[str]]
) -> None:
    honest()

    async def trick(mallory: Mallory) -> None:
        await mallory.gets_all_of_the_cache()

    assert play(trick) == []
