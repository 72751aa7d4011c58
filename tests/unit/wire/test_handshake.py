from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.core.errors import ForeignInvite, PeerFault, ProtocolMismatch
from shardline.core.ids import PROTOCOL, NodeId
from shardline.wire import verify
from shardline.wire.handshake import Established, Identity, Initiator, Responder, refusal
from tests.conformance.transports import KeySigner

if TYPE_CHECKING:
    from collections.abc import Callable

MEMBER = b"m" * 32
ALICE, BOB, EVE = (Identity(KeySigner(), MEMBER, bytes([n]) * 8) for n in range(3))
STRANGER = Identity(KeySigner(), b"x" * 32, bytes(8))


def node(identity: Identity) -> NodeId:
    return identity.signer.node_id


def untouched(_: str, message: bytes) -> bytes:
    return message


def shake(
    caller: Identity, called: Identity, passed_on: Callable[[str, bytes], bytes] = untouched
) -> tuple[Established, Established]:
    initiator, responder = Initiator(caller, node(called)), Responder(called)
    reply = responder.reply(passed_on("hello", initiator.hello()))
    answer = initiator.answer(passed_on("reply", reply))
    welcome, far = responder.welcome(passed_on("answer", answer))
    return initiator.welcomed(passed_on("welcome", welcome)), far


def test_both_sides_learn_who_the_other_is_and_talk() -> None:
    near, far = shake(ALICE, BOB)
    assert (near.peer, near.boot) == (node(BOB), BOB.boot)
    assert (far.peer, far.boot) == (node(ALICE), ALICE.boot)
    assert far.opener.open(near.sealer.seal((b"hello",), 5)) == b"hello"
    assert near.opener.open(far.sealer.seal((b"you",), 3)) == b"you"


def test_a_frame_that_is_sent_back_to_its_sender_is_a_peers_fault() -> None:
    near, _ = shake(ALICE, BOB)
    with pytest.raises(PeerFault):
        near.opener.open(near.sealer.seal((b"hello",), 5))


def test_no_two_handshakes_share_keys() -> None:
    (first, _), (_, other_far) = shake(ALICE, BOB), shake(ALICE, BOB)
    with pytest.raises(PeerFault):
        other_far.opener.open(first.sealer.seal((b"hello",), 5))


def test_a_stranger_without_the_membership_key_gets_no_reply() -> None:
    with pytest.raises(ForeignInvite):
        Responder(BOB).reply(Initiator(STRANGER, node(BOB)).hello())


def test_a_caller_that_is_refused_learns_that_the_swarm_is_another() -> None:
    with pytest.raises(ForeignInvite, match="another swarm"):
        Initiator(STRANGER, node(BOB)).answer(refusal(BOB))


def test_a_responder_without_the_membership_key_cannot_reply() -> None:
    hello = Initiator(ALICE, node(STRANGER)).hello()
    other = Initiator(STRANGER, node(STRANGER)).hello()
    assert len(hello) == len(other)
    with pytest.raises(PeerFault):
        Initiator(ALICE, node(STRANGER)).answer(Responder(STRANGER).reply(other))


def test_a_call_for_one_node_is_not_answered_by_another() -> None:
    with pytest.raises(ForeignInvite):
        Responder(EVE).reply(Initiator(ALICE, node(BOB)).hello())


def test_a_member_cannot_pose_as_the_node_that_is_called() -> None:
    class Poser(KeySigner):
        """Names itself Bob, and signs with its own key."""

        def __init__(self) -> None:
            super().__init__()
            self.node_id = node(BOB)

    poser = Identity(Poser(), MEMBER, bytes(8))
    initiator = Initiator(ALICE, node(BOB))
    with pytest.raises(PeerFault, match="is not node"):
        initiator.answer(Responder(poser).reply(initiator.hello()))
    calling, responder = Initiator(poser, node(ALICE)), Responder(ALICE)
    with pytest.raises(PeerFault, match="not the node"):
        responder.welcome(calling.answer(responder.reply(calling.hello())))


def test_a_member_in_the_middle_cannot_join_two_ends() -> None:
    """Eve answers Alice in Bob's name by asking Bob, and passes everything on with her keys."""
    alice, eve = Initiator(ALICE, node(BOB)), Initiator(EVE, node(BOB))
    bob = Responder(BOB)
    with pytest.raises(PeerFault):
        alice.answer(bob.reply(eve.hello()))


def test_a_hello_that_comes_back_as_a_reply_is_a_peers_fault() -> None:
    initiator = Initiator(ALICE, node(BOB))
    with pytest.raises(PeerFault):
        initiator.answer(initiator.hello())


def test_an_answer_cannot_be_used_again() -> None:
    initiator, responder = Initiator(ALICE, node(BOB)), Responder(BOB)
    answer = initiator.answer(responder.reply(initiator.hello()))
    again = Responder(BOB)
    again.reply(initiator.hello())
    with pytest.raises(PeerFault):
        again.welcome(answer)


@settings(max_examples=60)
@given(st.sampled_from(["hello", "reply", "answer", "welcome"]), st.data())
def test_any_change_to_any_message_stops_the_handshake(stage: str, data: st.DataObject) -> None:
    def passed_on(name: str, message: bytes) -> bytes:
        if name != stage:
            return message
        changed = bytearray(message)
        changed[data.draw(st.integers(0, len(message) - 1))] ^= data.draw(st.integers(1, 255))
        return bytes(changed)

    with pytest.raises((PeerFault, ForeignInvite, ProtocolMismatch)):
        shake(ALICE, BOB, passed_on)


@given(st.binary(max_size=400))
def test_any_bytes_instead_of_a_handshake_are_a_peers_fault(junk: bytes) -> None:
    with pytest.raises(PeerFault):
        Responder(BOB).reply(junk)
    with pytest.raises(PeerFault):
        Initiator(ALICE, node(BOB)).answer(junk)


def test_both_sides_name_both_versions() -> None:
    newer = Identity(ALICE.signer, MEMBER, bytes(8), protocol=PROTOCOL + 1)
    initiator = Initiator(newer, node(BOB))
    with pytest.raises(ProtocolMismatch, match=f"protocol {PROTOCOL + 1}, this one {PROTOCOL}:"):
        Responder(BOB).reply(initiator.hello())
    with pytest.raises(ProtocolMismatch, match=f"protocol {PROTOCOL}, this one {PROTOCOL + 1}:"):
        initiator.answer(refusal(BOB))


def test_a_weak_key_in_the_exchange_is_a_peers_fault() -> None:
    initiator = Initiator(ALICE, node(BOB))
    reply = bytearray(Responder(BOB).reply(initiator.hello()))
    reply[10:42] = bytes(32)
    with pytest.raises(PeerFault, match="weak"):
        initiator.answer(bytes(reply))


def test_only_the_signers_own_signature_verifies() -> None:
    signature = ALICE.signer.sign(b"data")
    assert verify(node(ALICE), b"data", signature)
    assert not verify(node(ALICE), b"date", signature)
    assert not verify(node(BOB), b"data", signature)
    assert not verify(NodeId("no key"), b"data", signature)
    assert not verify(node(ALICE), b"data", b"short")
    assert not verify(NodeId("00" * 32), b"data", bytes(64))
