"""Nodes that listen nowhere, as behind a home router, and callers whose invite is out of date.

Real processes. Where this process may make network namespaces each node that listens nowhere lives
in one of its own, with no way in; elsewhere its process is seen to have no listening socket.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from shardline.cli.cables import Place
from shardline.cli.local import LocalSwarm, local_swarm
from shardline.client import joined
from shardline.core.errors import Unsupported
from shardline.core.spans import Span
from shardline.swarm import Invite

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from shardline.client import Swarm
    from tests.e2e.conftest import Ended

TOKENS = 30
PROMPT = torch.tensor([[5, 9, 2, 7]])
GREEDY: dict[str, Any] = {
    "max_new_tokens": TOKENS,
    "min_new_tokens": TOKENS,
    "do_sample": False,
}
PLACES = 4


@pytest.fixture(scope="module")
def golden(tiny: Path) -> list[int]:
    whole = cast("Any", AutoModelForCausalLM).from_pretrained(tiny, dtype=torch.float32)
    return whole.generate(PROMPT, **GREEDY)[0, PROMPT.shape[1] :].tolist()


class Street:
    """Houses: those with an address that all can dial, and those that nobody can enter."""

    def __init__(self, founder: LocalSwarm, places: tuple[Place, ...]) -> None:
        self._founder = founder
        self._places = list(places)
        self._is_walled = bool(places)

    def start(self, name: str, span: Span) -> None:
        """Start a node that listens."""
        self._founder.start(name, span, self._places.pop() if self._is_walled else None)
        self._founder.wait_until_ready()

    def kill(self, name: str) -> None:
        """End a node that listens as a pulled plug would."""
        self._founder.kill(name)

    def leave(self, name: str) -> None:
        """Ask a node that listens to leave."""
        self._founder.end(name)

    def invite(self, *names: str) -> Invite:
        """One that names these nodes only."""
        records = {record.name: record for record in self._founder.swarm.nodes_now()}
        known = tuple(records[name].addresses[0] for name in names)
        return replace(self._founder.swarm.invite, bootstrap=known)

    def hide(self, behind: LocalSwarm, name: str, span: Span) -> None:
        """Start a node that listens nowhere and knows what `behind` knows."""
        network = self._places.pop().network if self._is_walled else None
        behind.start(name, span, Place("none", cast("str", network)))
        behind.wait_until_ready()
        if not self._is_walled:
            sockets = psutil.Process(behind.processes[name].pid).net_connections("inet")
            assert all(socket.status != psutil.CONN_LISTEN for socket in sockets)


@pytest.fixture
def street(tiny: Path) -> Generator[Street]:
    with local_swarm(tiny, []) as founder, contextlib.ExitStack() as stack:
        places: tuple[Place, ...] = ()
        with contextlib.suppress(Unsupported):
            places = stack.enter_context(founder.cabled(PLACES))
        yield Street(founder, places)


@pytest.fixture
def knowing(
    street: Street, tiny: Path, tmp_path: Path
) -> Callable[..., contextlib.AbstractContextManager[LocalSwarm]]:
    """A caller who only dials and knows only these nodes; and so do the nodes that it starts."""

    @contextlib.contextmanager
    def know(*names: str) -> Generator[LocalSwarm]:
        with joined(street.invite(*names)) as swarm:
            behind = LocalSwarm(swarm, tiny, tmp_path, ["--dtype", "float32", "--threads", "1"])
            try:
                yield behind
            finally:
                for name in list(behind.processes):
                    behind.end(name)

    return know


def write(swarm: Swarm, tiny: Path, at: int, act: Callable[[list[str]], None]) -> list[int]:
    """All tokens; after the one at `at` something happens to the chain, given by names."""
    model = swarm.model_now(str(tiny))
    names = {record.node: record.name for record in swarm.nodes_now()}
    seen: list[int] = []
    for token in model.stream(PROMPT, **GREEDY):
        seen.append(token)
        if len(seen) == at:
            act([names[hop.node] for hop in model.chain])
    return seen


def test_nodes_that_listen_nowhere_serve_and_die_like_others(
    street: Street,
    knowing: Callable[..., contextlib.AbstractContextManager[LocalSwarm]],
    tiny: Path,
    golden: list[int],
    shardline: Callable[..., Ended],
) -> None:
    street.start("ada", Span(0, 1))
    with knowing("ada") as behind:
        for name, span in (("ben", Span(1, 3)), ("cleo", Span(3, 4)), ("dora", Span(1, 3))):
            street.hide(behind, name, span)
        seen = shardline("status", "--join", behind.invite, "--json")
        rows = {row["name"]: row for row in json.loads(seen.out)["nodes"]}
        assert (rows["ada"]["path"], rows["ada"]["via"]) == ("direct", None)
        for name in ("ben", "cleo", "dora"):
            assert (rows[name]["path"], rows[name]["via"]) == ("relayed", "ada")

        def kill(chain: list[str]) -> None:
            assert (chain[0], chain[2]) == ("ada", "cleo")
            behind.kill(chain[1])

        assert write(behind.swarm, tiny, 8, kill) == golden


def test_the_node_between_may_die_if_another_listens(
    street: Street,
    knowing: Callable[..., contextlib.AbstractContextManager[LocalSwarm]],
    tiny: Path,
    golden: list[int],
) -> None:
    street.start("ada", Span(0, 2))
    street.start("eve", Span(0, 2))
    with knowing("ada", "eve") as behind:
        street.hide(behind, "ben", Span(2, 4))
        records = {record.name: record for record in behind.swarm.nodes_now()}
        between = {
            record.addresses[0]: name for name, record in records.items() if record.addresses
        }[records["ben"].through]
        assert write(behind.swarm, tiny, 8, lambda _: street.kill(between)) == golden


@pytest.mark.long
def test_a_caller_whose_invite_names_who_is_gone_still_comes_in(
    street: Street, tiny: Path, shardline_process: Callable[..., Ended]
) -> None:
    street.start("ada", Span(0, 4))
    street.start("eve", Span(0, 4))
    invite = street.invite("ada").encode()
    asking = ("generate", tiny, "--join", invite, "--prompt", "Anna", "--max-new-tokens", "8")
    first = shardline_process(*asking)
    assert first.code == 0, first.err
    street.leave("ada")
    again = shardline_process(*asking)
    assert (again.code, again.out) == (0, first.out), again.err


def test_a_node_that_listens_nowhere_and_knows_nobody_is_refused(
    tiny: Path, shardline: Callable[..., Ended]
) -> None:
    shardline("serve", tiny, "--listen", "none").one_line(2, "listens nowhere", "--join")
    lonely = Invite.new().encode()
    ended = shardline("serve", tiny, "--listen", "none", "--join", lonely)
    ended.one_line(2, "listens nowhere", "--join")
