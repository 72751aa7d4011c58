"""Nodes that take sessions and then answer what no honest node does: they are gone around.

A caller's tokens are those of one process as long as others hold the blocks; when nobody else does,
the error names the node.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from anyio.from_thread import start_blocking_portal

from shardline.client import ChainBroken
from shardline.codec import pack
from shardline.core.ids import short
from shardline.wire import Failed, Open, Result, Spent, Step
from tests.e2e.mallory import Impostor, impostor_in

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from anyio.from_thread import BlockingPortal

    from shardline.client import Swarm
    from shardline.swarm import NodeRecord
    from shardline.wire import Message
    from tests.e2e.conftest import Ended, Honest
    from tests.e2e.mallory import Reply


@pytest.fixture
def portal() -> Generator[BlockingPortal]:
    with start_blocking_portal("asyncio", name="impostor") as portal:
        yield portal


def failing(kind: str, text: str = "no", about: str | None = None) -> Callable[..., Reply]:
    """Takes every session, and answers every step with a failure."""

    def reply(impostor: Impostor, message: Message) -> Reply:
        if isinstance(message, Open):
            return impostor.opened(message), ()
        if isinstance(message, Step):
            name: Any = impostor.nodes[0].node if about else None
            return Failed(message.session, message.step, impostor.me, kind, text, name), ()
        return None

    return reply


def answering(*body: bytes) -> Callable[..., Reply]:
    """Takes every session, and answers every step with these bytes."""

    def reply(impostor: Impostor, message: Message) -> Reply:
        if isinstance(message, Open):
            return impostor.opened(message), ()
        if isinstance(message, Step):
            return Result(message.session, message.step, [Spent("me", 1)]), body
        return None

    return reply


def silent(impostor: Impostor, message: Message) -> Reply:
    """Takes every session, lives, and answers no step."""
    return (impostor.opened(message), ()) if isinstance(message, Open) else None


LIES: dict[str, Callable[..., Reply]] = {
    "the caller is at fault": failing("PeerFault"),
    "the caller said too much": failing("CacheFull"),
    "the span is too large": failing("SpanTooLarge"),
    "it gives up, in a word of its own": failing("GiveUp"),
    "somebody else is lost": failing("NodeLost", about="another"),
    "nothing": answering(),
    "noise": answering(b"\xc1"),
    "a number": answering(*map(bytes, pack({"output": 3}))),
    "another shape": answering(*map(bytes, pack({"output": torch.ones(1, 2, 3)}))),
    "another type": answering(*map(bytes, pack({"output": torch.ones(1, 4, 64).double()}))),
    "silence": silent,
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_node_that_lies_is_gone_around(  # noqa: PLR0913, PLR0917
    swarm: Swarm,
    nodes: list[NodeRecord],
    honest: Honest,
    portal: BlockingPortal,
    monkeypatch: pytest.MonkeyPatch,
    lie: Callable[..., Reply],
) -> None:
    monkeypatch.setattr("shardline.client.session.STALL_S", 3.0)
    with portal.wrap_async_context_manager(impostor_in(swarm, nodes[0], lie)) as impostor:
        honest()
        assert any(isinstance(word, Step) for word in impostor.heard), "nobody asked it"


@pytest.mark.parametrize("lie", [failing("PeerFault"), failing("CacheFull"), answering(b"\xc1")])
def test_when_there_is_no_other_the_error_names_the_node(
    swarm: Swarm,
    nodes: list[NodeRecord],
    honest: Honest,
    portal: BlockingPortal,
    lie: Callable[..., Reply],
) -> None:
    alone = {"dtype": "bfloat16"}  # nobody else computes in it
    with portal.wrap_async_context_manager(impostor_in(swarm, nodes[0], lie, **alone)) as impostor:
        model = swarm.model_now(str(honest.model), dtype=torch.bfloat16)
        with pytest.raises(ChainBroken, match=short(impostor.me)):
            model.generate(torch.tensor([[5, 9, 2, 7]]), max_new_tokens=2)


@pytest.mark.parametrize("kind", ["StepFailed", "PeerFault"])
def test_what_a_node_says_of_its_failure_is_one_line_without_escapes(  # noqa: PLR0913, PLR0917
    swarm: Swarm,
    nodes: list[NodeRecord],
    portal: BlockingPortal,
    shardline: Callable[..., Ended],
    tiny: Path,
    kind: str,
) -> None:
    curse = failing(kind, "\x1b[2Jgone\n\nTraceback \u202ereversed")
    with portal.wrap_async_context_manager(impostor_in(swarm, nodes[0], curse)):
        invite = swarm.invite.encode()
        ended = shardline("generate", tiny, "--join", invite, "--prompt", "x", "--json")
    assert ended.code == 0, ended
    before = r"\w{8} \(0:1\), \w{8} \(1:4\) took over from \w{8} \(0:4\): "
    said = re.escape("?[2Jgone Traceback ?reversed\n")
    assert re.fullmatch(f"shardline: {before}{said}", ended.err), ended.err
