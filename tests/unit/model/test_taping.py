"""Steps that are done from what was written down have the very bits of ordinary ones."""

from __future__ import annotations

import copy
import math
import random
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from shardline.core.errors import StepFailed
from shardline.core.spans import Span
from shardline.kernels import can_attend
from shardline.model import CACHES, PAGE_TOKENS, Call, Crossing, LoadedSpan, load_span, trace
from shardline.model import taping as page
from shardline.model.recording import repeat
from shardline.model.trees import leaves
from tests.parity.chains import CPU
from tests.parity.zoo import make, named
from tests.unit.model.test_attending_together import begun, behind_pages, learnt, run, step

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from shardline.model import ChainPlan, SessionCache
    from shardline.model.recording import Calls

    Session = tuple[SessionCache, SessionCache, int]
    """Its cache, that of its twin which runs alone in the ordinary way, and rows."""

BLOCKS = 2
SPAN = Span(1, 1 + BLOCKS)
BF16 = torch.bfloat16
ONE = torch.zeros(1, 1, 1, 16, dtype=BF16)
pytestmark = pytest.mark.skipif(not can_attend(ONE, ONE, ONE), reason="no kernel on this machine")


@pytest.fixture
def span(plan: ChainPlan) -> LoadedSpan:
    """One that has nothing written down."""
    return load_span(plan, SPAN, dtype=BF16, device=CPU)


@pytest.fixture
def threads() -> Generator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def tapes(span: LoadedSpan) -> Any:
    together: Any = span.together
    return together._tapes  # noqa: SLF001


def twins(cache: SessionCache, rows: int = 1) -> Session:
    return cache, copy.deepcopy(cache), rows


@contextmanager
def forwards(span: LoadedSpan, count: int | None) -> Generator[None]:
    """Within, its blocks' own forward is called so often; None: however often."""
    seen: list[object] = []
    blocks = list(span.blocks.values())
    hooks = [each.register_forward_pre_hook(lambda one, _: seen.append(one)) for each in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    assert count is None or len(seen) == count


def masks(cache: SessionCache, rows: int) -> torch.Tensor:
    mask = torch.ones(rows, 1, 1, cache.tokens + 1, dtype=torch.bool)
    mask[..., 0] = cache.tokens == 0
    return mask


def check(
    span: LoadedSpan,
    sessions: Sequence[Session],
    calls: int | None = 0,
    make_step: Callable[[SessionCache, int], Crossing] = lambda _, rows: step(rows=rows),
) -> None:
    """A step of each, with so many calls of blocks, gives what it gives alone on one thread."""
    steps = [(make_step(cache, rows), cache) for cache, _, rows in sessions]
    with forwards(span, calls):
        found = span.run_together(steps)
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    for (crossing, cache), (_, twin, _), result in zip(steps, sessions, found, strict=True):
        assert isinstance(result, Crossing), result
        assert torch.equal(result.carried[0], run(span, crossing, twin))
        span.check(cache, twin.tokens)
        assert cache.memory_bytes == twin.memory_bytes
    torch.set_num_threads(count)


@pytest.mark.parametrize("room", [None, 300])
def test_a_lone_session(span: LoadedSpan, room: int | None) -> None:
    first = [twins(span.new_cache(room))]
    check(span, first, 2 * BLOCKS)  # as ever, and while it is written down
    for _ in range(2 * PAGE_TOKENS + 5):
        check(span, first)
    check(span, [twins(behind_pages(span, 2, 63))])
    other = [twins(begun(span, 62, rows=3, room=room), 3)]
    check(span, other, BLOCKS)
    for _ in range(PAGE_TOKENS):
        check(span, other)
    assert tapes(span).kinds == [True]


@pytest.mark.parametrize("seed", range(4))
def test_sessions_that_come_go_and_forget(span: LoadedSpan, seed: int) -> None:
    learnt(span)
    luck = random.Random(seed)
    made: list[Callable[[], Session]] = [
        lambda: twins(span.new_cache()),
        lambda: twins(begun(span, luck.randrange(1, 140))),
        lambda: twins(begun(span, 62, room=None)),
        lambda: twins(begun(span, 63, rows=2, room=None), 2),
        lambda: twins(behind_pages(span, 1, 1)),
        lambda: twins(behind_pages(span, 2, 62)),
    ]
    sessions = [one() for one in made]
    written = {2}
    for _ in range(40):
        going = luck.sample(sessions, luck.randint(1, 4))
        rows = sum(rows for *_, rows in going)
        if luck.random() < 0.2:
            check(span, going, None, lambda cache, rows: step(rows=rows, mask=masks(cache, rows)))
        else:
            check(span, going, 0 if rows in written else BLOCKS)
            written.add(rows)
        back = luck.choice(sessions)
        tokens = luck.randint(0, back[1].tokens)
        for cache in back[:2]:
            span.truncate(cache, tokens)
        sessions[luck.randrange(len(sessions))] = luck.choice(made)()
    assert tapes(span).kinds == [True]


def test_what_came_out_stays_as_it_is(span: LoadedSpan) -> None:
    cache = begun(span, 3)
    found = [span.run_together([(step(), cache)])[0] for _ in range(4)]
    held = [copy.deepcopy(one) for one in found]
    for _ in range(3):
        span.run_together([(step(), cache)])
    for one, other in zip(found, held, strict=True):
        assert isinstance(one, Crossing)
        assert isinstance(other, Crossing)
        assert torch.equal(one.carried[0], other.carried[0])


def test_the_last_blocks_give_their_whole_output(plan: ChainPlan) -> None:
    last = load_span(plan, Span(2, 4), dtype=BF16, device=CPU)
    cache, twin = last.new_cache(), last.new_cache()
    for count in (2 * BLOCKS, 0, 0):
        crossing = replace(step(), start=2, order=(0, 0))
        with forwards(last, count):
            result = last.run_together([(crossing, cache)])[0]
        assert not isinstance(result, Exception)
        mine, other = leaves(result.to_tree()), leaves(last.run(crossing, twin).to_tree())
        for (path, one), (also, two) in zip(mine, other, strict=True):
            assert path == also
            assert torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two


@pytest.mark.parametrize("count", [2, 3])
def test_for_another_number_of_threads_it_is_written_anew(
    span: LoadedSpan, threads: Callable[[int], None], count: int
) -> None:
    learnt(span)
    sessions = [twins(begun(span, 70)), twins(begun(span, 5))]
    check(span, sessions)
    threads(count)
    check(span, sessions, BLOCKS)
    check(span, sessions)
    threads(1)
    check(span, sessions)


@pytest.mark.parametrize(("held", "tokens", "rows"), [(2, 8, 1), (2, PAGE_TOKENS, 3), (1, 9, 2)])
def test_a_wrong_session_fails_alone(span: LoadedSpan, held: int, tokens: int, rows: int) -> None:
    wrong = [begun(span, tokens, rows=held, room=None) for _ in range(3)]
    assert isinstance(span.run_together([(step(rows=rows), wrong[0])])[0], StepFailed)
    assert tapes(span).kinds == []
    learnt(span)
    right = twins(begun(span, 7)), twins(begun(span, 8, rows=rows), rows), twins(begun(span, 9))
    check(span, right, BLOCKS)
    check(span, right)
    alone, two = right[1], [right[0], right[2]]
    check(span, [alone], None)
    steps = [(step(), right[0][0]), (step(rows=rows), wrong[1]), (step(), right[2][0])]
    found = span.run_together(steps)
    assert isinstance(found[1], StepFailed)
    for index in (0, 2):
        result = found[index]
        assert isinstance(result, Crossing)
        assert torch.equal(result.carried[0], run(span, steps[index][0], right[index][1]))
    check(span, two)
    assert isinstance(span.run_together([(step(rows=rows), wrong[2])])[0], StepFailed)
    check(span, [alone])


def test_a_mask_gives_no_verdict(span: LoadedSpan) -> None:
    session = [twins(begun(span, 3))]
    for _ in range(2):
        check(span, session, BLOCKS, lambda cache, rows: step(mask=masks(cache, rows)))
    assert tapes(span).kinds == []
    for calls in (2 * BLOCKS, 0):
        check(span, session, calls)
        check(span, session, BLOCKS, lambda cache, rows: step(mask=masks(cache, rows)))
    check(span, session)


def spoilt(block: Any, what: Callable[[torch.Tensor], torch.Tensor]) -> None:
    block.mlp = nn.Sequential(block.mlp, Then(what))


class Then(nn.Module):
    def __init__(self, what: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.what(x)


def attends_by_itself(block: Any) -> None:
    """It asks the cache, and no registry."""
    own = block.self_attn

    def forward(
        hidden_states: torch.Tensor, past_key_values: Any, **_: object
    ) -> tuple[torch.Tensor, None]:
        heads = (*hidden_states.shape[:-1], -1, 16)
        query, keys, values = (
            layer(hidden_states).view(heads).transpose(1, 2)
            for layer in (own.q_proj, own.k_proj, own.v_proj)
        )
        keys, values = past_key_values.update(keys, values, own.layer_idx)
        keys, values = keys.repeat(1, 2, 1, 1), values.repeat(1, 2, 1, 1)
        found = (query @ keys.transpose(2, 3)).softmax(-1) @ values
        return own.o_proj(found.transpose(1, 2).reshape(hidden_states.shape)), None

    own.forward = forward


def with_what_it_kept(x: torch.Tensor) -> torch.Tensor:
    kept = KEPT.setdefault(len(x[0]), torch.arange(x.shape[-1]).to(x.dtype))
    return x + kept


ELSEWHERE = torch.zeros(())
KEPT: dict[int, torch.Tensor] = {}
SPOILS: dict[str, Callable[[Any], torch.Tensor]] = {
    "a number": lambda x: x if x.sum().item() > 0 else -x,
    "a list": lambda x: x if x.tolist()[0][0][0] > 0 else -x,
    "places": lambda x: x + len(x.nonzero()),
    "chance": lambda x: functional.dropout(x, 1e-9),
    "what it keeps": lambda x: KEPT.clear() or with_what_it_kept(x),
    "elsewhere": lambda x: x + ELSEWHERE.add_(1).mul(0).to(x.dtype),
}


def fallen(name: str, span: LoadedSpan, tmp_path: Path) -> LoadedSpan:
    """A span whose steps cannot be done again."""
    if name == "float32":
        return load_span(span.plan, SPAN, dtype=torch.float32, device=CPU)
    if name == "windows":
        make(named("mistral"), tmp_path)
        return load_span(trace(tmp_path), SPAN, dtype=BF16, device=CPU)
    if name == "8 bits":
        return LoadedSpan(span.plan, span.span, span.blocks, CACHES["int8"])
    if name == "own attention":
        attends_by_itself(span.blocks[2])
    else:
        spoilt(span.blocks[2], SPOILS[name])
    return span


@pytest.mark.parametrize("name", ["float32", "windows", "8 bits", "own attention", *SPOILS])
@pytest.mark.parametrize("begins", [0, 3])
def test_what_cannot_be_done_again_is_done_as_ever(
    span: LoadedSpan, tmp_path: Path, name: str, begins: int
) -> None:
    other = fallen(name, span, tmp_path)

    def made(_: SessionCache, rows: int, tokens: int = 1) -> Crossing:
        return step(tokens, rows, dtype=other.dtype)

    sessions = [twins(other.new_cache()), twins(other.new_cache())]
    first = made(sessions[0][0], 1, max(begins, 1))
    for cache in sessions[0][:2] if begins else ():
        run(other, first, cache)
    for turn in range(4):
        for each in sessions:
            check(other, [each], None if turn == 0 else BLOCKS, made)
    assert tapes(other).kinds == ([] if name == "windows" else [False])


def test_numbers_that_torch_does_not_take_fail_their_session(span: LoadedSpan) -> None:
    table = torch.randn(1000, 64).to(BF16)
    spoilt(span.blocks[2], lambda x: x + functional.embedding(x[..., 0].abs().long(), table))
    session = [twins(begun(span, 3))]
    check(span, session, 2 * BLOCKS)
    crossing = step()
    crossing = replace(crossing, carried=(math.nan * crossing.carried[0],))
    wrong = begun(span, 4)
    with forwards(span, BLOCKS):
        assert isinstance(span.run_together([(crossing, wrong)])[0], StepFailed)
    check(span, session)


def test_where_a_kernel_fails_it_is_done_as_ever(
    span: LoadedSpan, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt(span)
    sessions = [twins(begun(span, 63, room=None)), twins(begun(span, 5))]

    def half(calls: Calls) -> bool:
        assert repeat(calls[: len(calls) // 2])
        return False

    with monkeypatch.context() as patch:
        patch.setattr(page, "repeat", half)
        check(span, sessions, BLOCKS)
    check(span, sessions)


def test_kinds_are_counted(span: LoadedSpan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "KINDS_MAX", 2)
    session = [twins(begun(span, 3))]

    def of_kind(number: int) -> Callable[[SessionCache, int], Crossing]:
        def made(_: SessionCache, rows: int) -> Crossing:
            one = step(rows=rows)
            return replace(
                one, calls=(Call(one.calls[0].args, one.calls[0].kwargs | {"n": number}),)
            )

        return made

    for number in range(4):
        for calls in (2 * BLOCKS, 0) if number < page.KINDS_MAX else (BLOCKS, BLOCKS):
            check(span, session, calls, of_kind(number))
    check(span, session, 0, of_kind(0))
    assert tapes(span).kinds == [True, True]


def test_the_oldest_tape_goes(span: LoadedSpan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "TAPES_MAX", 2)
    each = {rows: [twins(begun(span, 3, rows=rows), rows)] for rows in (1, 2, 3)}
    for rows, calls in [(1, 4), (2, 2), (1, 0), (3, 2), (2, 0), (1, 2), (3, 0), (2, 2)]:
        check(span, each[rows], calls * BLOCKS // 2)
    assert len(tapes(span)._tapes) == page.TAPES_MAX  # noqa: SLF001


def test_steps_of_many_rows_are_done_as_ever(
    span: LoadedSpan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "ROWS_MAX", 4)
    for rows, calls in ((4, 0), (5, BLOCKS)):
        session = [twins(begun(span, 3, rows=rows), rows)]
        check(span, session, None)
        check(span, session, calls)
