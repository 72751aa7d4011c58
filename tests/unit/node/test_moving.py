"""Nodes that move: real ones on loopback in this process, with short waits; the tokens stay."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest
import torch
from transformers import AutoModelForCausalLM

from shardline.core.errors import CorruptWeights
from shardline.core.spans import Span, gaps
from shardline.model import load_span, trace
from shardline.node import Budget, Pace, models, moving
from shardline.node.machine import TOKENS_LEAST
from shardline.swarm import Hop, Move, NodeRecord, State, decide
from tests.parity.zoo import make, named
from tests.support.pausing import Pause
from tests.support.swarms import NodesHere, swarm_here

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from pathlib import Path

    from shardline.client import SwarmModel
    from shardline.core.ids import NodeId

T = TypeVar("T")

BLOCKS = 4
PACE = Pace(think_s=0.1, settle_s=0.3, news_s=0.2, leave_s=1.0)
PROMPT = torch.tensor([[5, 9, 2, 7]])
GREEDY: dict[str, Any] = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": False}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 4 blocks."""
    directory = tmp_path_factory.mktemp("tiny")
    make(named("llama"), directory)
    return directory


@pytest.fixture(scope="module")
def golden(tiny: Path) -> list[int]:
    """What one process writes."""
    whole = cast("Any", AutoModelForCausalLM).from_pretrained(tiny, dtype=torch.float32)
    return whole.generate(PROMPT, **GREEDY)[0, PROMPT.shape[1] :].tolist()


@pytest.fixture
def nodes(tiny: Path) -> Generator[NodesHere]:
    with swarm_here(tiny) as swarm:
        yield swarm


@pytest.fixture(params=["room for both", "room for one"])
def memory_bytes(
    request: pytest.FixtureRequest, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> int:
    """Nodes take two blocks: because no more fit, or although more would."""
    monkeypatch.setattr(Budget, "fits", given(2))
    if request.param == "room for both":
        return 2**30
    plan = trace(tiny)
    both = sum(plan.block_bytes(torch.float32)[:2])
    return both + 2 * TOKENS_LEAST * plan.cache_bytes_per_token(torch.float32, Span(0, 2))


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody rests between two moves."""
    monkeypatch.setattr("shardline.swarm.rebalancing.REST_S", 0.0)


def order(monkeypatch: pytest.MonkeyPatch, *names: str, to: Span | None = None) -> None:
    """Whatever is best, these nodes mean to move there, once."""
    left = set(names)

    def ordered(me: NodeId, records: Iterable[NodeRecord], **_: object) -> Move | None:
        mine = next(record for record in records if record.node == me)
        if to is None or mine.name not in left or not mine.placed_at_s:
            return None
        left.discard(mine.name)
        return Move(to, 1.0)

    monkeypatch.setattr(moving, "decide", ordered)


def place(monkeypatch: pytest.MonkeyPatch, blocks: str) -> None:
    """Whoever starts now chooses these, however fast the others say they are."""
    span = Span.parse(blocks, blocks=BLOCKS)
    monkeypatch.setattr("shardline.node.serving.choose_place", given(span))


def given(answer: T) -> Callable[..., T]:
    """A function that always says this."""

    def say(*_: object, **__: object) -> T:
        return answer

    return say


def written(model: SwarmModel, *, meanwhile: Callable[[], object]) -> list[int]:
    """The text, if this happens when five tokens of it are there."""
    pause = Pause(PROMPT.shape[1] + 5, meanwhile)
    return list(model.stream(PROMPT, **GREEDY, stopping_criteria=[pause]))


def spans(records: dict[str, NodeRecord]) -> dict[str, str]:
    return {name: str(record.span) for name, record in sorted(records.items())}


def moved(name: str, to: str) -> Callable[[dict[str, NodeRecord]], bool]:
    """The node is there and has nothing left to do."""

    def there(records: dict[str, NodeRecord]) -> bool:
        record = records[name]
        ready = record.state is State.READY and record.moves_to is None
        return ready and str(record.span) == to

    return there


def blocks_in_memory(record: NodeRecord, model: Path) -> float:
    """By what the node says it uses; all blocks of these models are alike."""
    plan = trace(model)
    each_bytes = plan.cache_bytes_per_token(torch.float32, record.span)
    cache_bytes = (record.cache_tokens_total - record.cache_tokens_free) * each_bytes
    return (record.memory_used_bytes - cache_bytes) / plan.block_bytes(torch.float32)[0]


def helps(record: NodeRecord) -> bool:
    """Whether this node has come to where pat was alone: 1:3 helps as much as 2:4."""
    there = record.state is State.READY and record.moves_to is None
    return there and record.name != "pat" and record.stop > 2


def covered(records: dict[str, NodeRecord]) -> bool:
    ready = (record.span for record in records.values() if record.state is State.READY)
    return not gaps(ready, BLOCKS)


@pytest.mark.long
def test_an_unbalanced_swarm_balances_itself_and_no_request_fails(  # noqa: PLR0913, PLR0917 - fixtures
    nodes: NodesHere,
    tiny: Path,
    golden: list[int],
    memory_bytes: int,
    always: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del always
    order(monkeypatch)
    place(monkeypatch, "0:2")
    for name in ("pat", "quin"):
        nodes.start(name, "2:4")
    for name in ("ada", "ben", "cleo"):
        nodes.start(name, memory_bytes=memory_bytes, pace=PACE)
    assert spans(nodes.records()) == {
        "ada": "0:2", "ben": "0:2", "cleo": "0:2", "pat": "2:4", "quin": "2:4",
    }  # fmt: skip
    monkeypatch.setattr(moving, "decide", decide)
    written: list[list[int]] = []
    begun, over = threading.Event(), threading.Event()

    def write() -> None:
        model = nodes.swarm.model_now(str(tiny))
        while not over.is_set():
            written.append(list(model.stream(PROMPT, **GREEDY)))
            begun.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert begun.wait(30.0)
        nodes.stop("quin")

        def balanced(records: dict[str, NodeRecord]) -> bool:
            assert covered(records)
            return any(map(helps, records.values()))

        after = nodes.wait_until(balanced)
    finally:
        over.set()
        writer.join()
    assert len(written) > 1
    assert all(text == golden for text in written)
    mover = next(filter(helps, after.values()))
    assert mover.fits == 2
    assert not mover.pinned
    assert mover.placed_at_s > 0


def test_a_hole_is_closed_and_who_waited_goes_on(
    nodes: NodesHere,
    tiny: Path,
    golden: list[int],
    memory_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order(monkeypatch)
    for name in ("ada", "ben"):
        nodes.start(name, memory_bytes=memory_bytes, pace=PACE)
    place(monkeypatch, "0:2")
    nodes.start("cleo", memory_bytes=memory_bytes, pace=PACE)
    assert sorted(spans(nodes.records()).values()) == ["0:2", "0:2", "2:4"]
    monkeypatch.setattr(moving, "decide", decide)
    model = nodes.swarm.model_now(str(tiny), tell=lambda _: None)

    def stop_the_last_holder() -> None:
        nodes.stop(next(name for name, span in spans(nodes.records()).items() if span == "2:4"))

    assert written(model, meanwhile=stop_the_last_holder) == golden
    assert sorted(spans(nodes.wait_until(covered)).values()) == ["0:2", "2:4"]


@pytest.mark.parametrize("to", ["2:4", "1:3"])
def test_a_session_on_the_blocks_that_are_left_goes_on_elsewhere(  # noqa: PLR0913, PLR0917 - fixtures
    nodes: NodesHere,
    tiny: Path,
    golden: list[int],
    memory_bytes: int,
    to: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes.start("ada", "2:4")
    place(monkeypatch, "0:2")
    for name in ("ben", "cleo"):
        nodes.start(name, memory_bytes=memory_bytes, pace=PACE)
    told: list[Any] = []
    model = nodes.swarm.model_now(str(tiny), tell=told.append)

    def move_the_first() -> None:
        names = {record.node: name for name, record in nodes.records().items()}
        mover = names[model.chain[0].node]
        order(monkeypatch, mover, to=Span.parse(to, blocks=BLOCKS))
        nodes.wait_until(moved(mover, to))

    assert written(model, meanwhile=move_the_first) == golden
    assert f"moved to blocks {to}" in told[0].reasons[0], told
    assert len(told) == 1
    assert list(model.stream(PROMPT, **GREEDY)) == golden


def test_a_session_on_blocks_that_a_mover_keeps_notices_nothing(
    nodes: NodesHere,
    tiny: Path,
    golden: list[int],
    memory_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order(monkeypatch)
    place(monkeypatch, "1:3")
    for name, blocks in (("ada", "0:1"), ("ben", "2:4"), ("dora", "0:3")):
        nodes.start(name, blocks)
    nodes.start("cleo", memory_bytes=memory_bytes, pace=PACE)
    ids = {name: record.node for name, record in nodes.records().items()}
    chain = Hop(ids["ada"], Span(0, 1)), Hop(ids["cleo"], Span(1, 2)), Hop(ids["ben"], Span(2, 4))
    monkeypatch.setattr("shardline.client.surroundings.choose_chain", given(chain))
    told: list[Any] = []
    model = nodes.swarm.model_now(str(tiny), tell=told.append)

    def move_cleo() -> None:
        order(monkeypatch, "cleo", to=Span(0, 2))
        nodes.wait_until(moved("cleo", "0:2"))
        nodes.wait_until(lambda records: blocks_in_memory(records["cleo"], tiny) == 2)

    assert written(model, meanwhile=move_cleo) == golden
    assert model.chain == chain
    assert told == []


def test_a_node_that_a_person_placed_never_moves(
    nodes: NodesHere, monkeypatch: pytest.MonkeyPatch, always: None
) -> None:
    del always
    thoughts: list[NodeId] = []
    enough = threading.Event()

    def counted(me: NodeId, records: Iterable[NodeRecord], **how: Any) -> Move | None:
        thoughts.append(me)
        if min(map(thoughts.count, set(thoughts))) >= 5 and len(set(thoughts)) == 4:
            enough.set()
        return decide(me, records, **how)

    monkeypatch.setattr(moving, "decide", counted)
    for name, blocks in (("ada", "0:2"), ("ben", "0:2"), ("cleo", "0:2"), ("dora", "2:4")):
        nodes.start(name, blocks, pace=PACE)
    before = spans(nodes.records())
    assert enough.wait(30.0)
    after = nodes.records()
    assert spans(after) == before
    assert all(record.pinned and record.moves_to is None for record in after.values())


def test_a_node_looks_at_links_and_plans_on_a_thread_of_their_own(
    nodes: NodesHere, monkeypatch: pytest.MonkeyPatch, memory_bytes: int
) -> None:
    looks: list[tuple[str, dict[str, Any]]] = []
    enough = threading.Event()

    def seen(me: NodeId, records: Iterable[NodeRecord], **how: Any) -> Move | None:
        del me, records
        if "step_bytes" in how:
            looks.append((threading.current_thread().name, how))
            enough.set()
        return None

    monkeypatch.setattr(moving, "decide", seen)
    nodes.start("pat", "2:4")
    nodes.start("ada", memory_bytes=memory_bytes, pace=PACE)
    assert enough.wait(60.0)
    (name, how), *_ = looks
    assert name.startswith("shardline-plans")
    assert how["step_bytes"] > 0
    assert isinstance(how["refined"], bool)


def test_of_two_who_decide_at_once_one_moves(
    nodes: NodesHere, memory_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.start("pat", "2:4")
    order(monkeypatch)
    place(monkeypatch, "0:2")
    for name in ("ada", "ben"):
        nodes.start(name, memory_bytes=memory_bytes, pace=PACE)
    announced: set[str] = set()
    order(monkeypatch, "ada", "ben", to=Span(2, 4))

    def done(records: dict[str, NodeRecord]) -> bool:
        assert covered(records)
        announced.update(name for name, record in records.items() if record.moves_to)
        at_rest = all(record.moves_to is None for record in records.values())
        return at_rest and announced == {"ada", "ben"}

    after = nodes.wait_until(done)
    assert sorted(spans(after).values()) == ["0:2", "2:4", "2:4"]


def test_a_node_that_cannot_read_its_new_blocks_serves_on(  # noqa: PLR0913, PLR0917 - fixtures
    nodes: NodesHere,
    tiny: Path,
    golden: list[int],
    memory_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    nodes.start("pat", "2:4")
    nodes.start("quin", "0:2")
    order(monkeypatch)
    place(monkeypatch, "0:2")
    nodes.start("ada", memory_bytes=memory_bytes, pace=PACE)

    def torn(plan: Any, span: Span, **how: Any) -> Any:
        if span.start >= 2:
            raise CorruptWeights("model.safetensors: it ends too early")
        return load_span(plan, span, **how)

    monkeypatch.setattr(models, "load_span", torn)
    order(monkeypatch, "ada", to=Span(2, 4))
    after = nodes.wait_until(lambda records: not records["ada"].placed_at_s)["ada"]
    assert (after.state, str(after.span), after.moves_to) == (State.READY, "0:2", None)
    nodes.stop("quin")
    assert list(nodes.swarm.model_now(str(tiny)).stream(PROMPT, **GREEDY)) == golden
    said = [record for record in caplog.records if record.levelno >= logging.WARNING]
    (line,) = [record.getMessage() for record in said if "ada" in record.getMessage()]
    assert line == (
        "ada stays with blocks 0:2: 2:4 could not be read: model.safetensors: it ends too early"
    )


def test_all_waits_shrink_together() -> None:
    fast = Pace().times(0.5)
    for field in ("think_s", "settle_s", "news_s", "leave_s"):
        assert getattr(fast, field) == getattr(Pace(), field) / 2
