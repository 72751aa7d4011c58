"""What was recorded gives, done again on other numbers, what torch gives anew, to the bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from shardline.kernels import call, normalised
from shardline.model.recording import Arena, Recording, repeat

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS, WIDTH = 4, 16
WEIGHT = torch.ones(WIDTH, dtype=torch.bfloat16)
ELSEWHERE = torch.zeros(ROWS, WIDTH)
KEPT = 3
"""Results of a program that are held at a time; others die."""

Program = list[tuple[str, int, int]]


def by_our_kernel(x: torch.Tensor) -> torch.Tensor:
    found = normalised(x, WEIGHT, 1e-6, "twice")
    return x / 2 if found is None else found


def in_place(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    made = x.clone(memory_format=torch.contiguous_format)
    made += y
    made[1:, ::2] = y[1:, ::2]
    made.view(-1)[3:7].mul_(y[2, 3:7])
    return made


def joined(x: Any, y: Any) -> torch.Tensor:
    _, rest = torch.cat([x, y, x], 1).split_with_sizes([WIDTH, 2 * WIDTH], 1)
    one, other = rest.tensor_split(2, 1)
    return one + other


def of_constants(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    made = x + torch.tensor(ROWS * [list(range(WIDTH))], dtype=x.dtype)
    return made.index_select(1, torch.arange(WIDTH - 1, -1, -1)) + y


def of_several_results(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    most, places = x.topk(5, dim=-1)
    ordered, order = y.sort(dim=0)
    return ordered.scatter(1, places, most).gather(0, order)


WAYS: dict[str, Callable[[Any, Any], torch.Tensor]] = {
    "sum": lambda x, y: x + y,
    "sum of rows": lambda x, y: x + y[:1],
    "difference": lambda x, y: 1 - x - 2 * y,
    "product": lambda x, y: x * y * 0.3,
    "quotient": lambda x, y: x / (1 + y.abs()) % 3,
    "powers": lambda x, y: x.pow(2) - y.abs() ** 0.5 + 2 ** y.clamp(-1, 1),
    "matrices": lambda x, y: x @ y.t() @ y,
    "norm": lambda x, _: functional.layer_norm(x, (WIDTH,)),
    "norm of squares": lambda x, _: functional.rms_norm(x, (WIDTH,)),
    "softmax": lambda x, y: x.softmax(-1) + y.float().softmax(0).to(y.dtype),
    "means": lambda x, y: x - y.mean(-1, keepdim=True) + y.var(-1, unbiased=False, keepdim=True),
    "joined": joined,
    "chosen": lambda x, y: torch.where(x > y, x, y).masked_fill(y > 1, -1.0),
    "turned": lambda x, y: x.t().contiguous().t() * y.t().reshape(ROWS, WIDTH),
    "with a place": lambda x, y: torch.mul(x, y, out=torch.empty_like(x)),
    "zeros": lambda x, y: torch.zeros_like(x).add_(y).copy_(x[0]),
    "written over": lambda x, y: x.mul_(0.5).add_(y),
    "in place": in_place,
    "constants": of_constants,
    "several results": of_several_results,
    "our kernel": lambda x, _: by_our_kernel(x),
}  # fmt: skip


def some(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.randn(ROWS, WIDTH).to(dtype) for _ in range(2)]


def done(program: Program, given_: list[torch.Tensor]) -> list[torch.Tensor]:
    held = list(given_)
    for way, one, two in program:
        held = [*held, WAYS[way](held[one % len(held)], held[two % len(held)])]
        held = held[:2] + held[2:][-KEPT:]
    return held


def recorded(arena: Arena, work: Callable[..., Any], *inputs: torch.Tensor) -> Any:
    with Recording(arena) as recording:
        found = work(*inputs)
    assert recording.refused is None
    return found, recording.calls


def same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(
    program=st.lists(
        st.tuples(st.sampled_from(sorted(WAYS)), st.integers(0, 4), st.integers(0, 4)),
        min_size=1,
        max_size=12,
    )
)
def test_again_it_gives_what_torch_gives(dtype: torch.dtype, program: Program) -> None:
    gives_again(dtype, program)


@pytest.mark.parametrize("way", sorted(WAYS))
def test_each_way_gives_the_same_again(way: str) -> None:
    gives_again(torch.bfloat16, [(way, 0, 1)])


def gives_again(dtype: torch.dtype, program: Program) -> None:
    arena = Arena()
    first = some(dtype)
    inputs = [arena.copy(x) for x in first]
    found, calls = recorded(arena, lambda *given_: done(program, list(given_)), *inputs)
    same(found, done(program, first))
    results = [arena.alias(x) for x in found]
    del found  # what is written down holds no memory, and needs none held
    for _ in range(2):
        fresh = some(dtype)
        for place, x in zip(inputs, fresh, strict=True):
            place.copy_(x)
        assert repeat(calls)
        same(results, done(program, fresh))


def test_memory_of_the_dead_is_given_again_and_the_result_stays_right() -> None:
    arena = Arena()
    first = torch.randn(64, 64)
    place = arena.copy(first)

    def work(x: torch.Tensor) -> torch.Tensor:
        kept = x * 3
        for _ in range(50):
            x = (x + kept).sin()
        return x + kept

    found, calls = recorded(arena, work, place)
    assert arena.memory_bytes <= 6 * first.nbytes
    fresh = torch.randn(64, 64)
    place.copy_(fresh)
    assert repeat(calls)
    assert torch.equal(found, work(fresh))


def test_what_is_kept_elsewhere_is_read_as_it_is_then() -> None:
    arena = Arena()
    weight, place = torch.randn(8, 8), arena.copy(torch.randn(3, 8))

    def work(x: torch.Tensor) -> torch.Tensor:
        return x @ weight.t()

    found, calls = recorded(arena, work, place)
    weight.mul_(2)
    assert repeat(calls)
    assert torch.equal(found, place @ weight.t())


def drawn(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x).uniform_()


NOT_AGAIN: list[Callable[[Any], Any]] = [
    lambda x: x * x[0, 0].item(),
    lambda x: x * float(x[0, 0]),
    lambda x: x * x.tolist()[0][0],
    lambda x: x * float(x.numpy()[0, 0]),
    lambda x: x if x.sum() > 0 else -x,
    lambda x: x if torch.equal(x, x * 2) else -x,
    lambda x: x.nonzero(),
    lambda x: x.masked_select(x > 0),
    lambda x: x[x[:, 0] > 0],
    lambda x: x.unique(),
    lambda x: functional.dropout(x, 0.5),
    lambda x: x + torch.rand(WIDTH),
    torch.randn_like,
    drawn,
    ELSEWHERE.add_,
    lambda x: torch.mul(x, x, out=ELSEWHERE),
    lambda x: ELSEWHERE[0].copy_(x[0]),
    lambda x: call(lambda: 0) or x,
]


@pytest.mark.parametrize("work", NOT_AGAIN)
def test_what_cannot_be_done_again_is_refused(work: Callable[[Any], Any]) -> None:
    arena = Arena()
    place = arena.copy(torch.randn(ROWS, WIDTH))
    with Recording(arena) as recording:
        work(place)
        place.add(1)
    assert recording.refused is not None
    with Recording(arena) as recording:
        place.add(1)
    assert recording.refused is None  # it is of that work alone


def test_it_stops_at_a_kernel_that_fails() -> None:
    made: list[str] = []

    def kernel(name: str, result: int | None) -> int | None:
        made.append(name)
        return result

    calls: Any = [(kernel, given_) for given_ in (("a", None), ("b", 1), ("c", 2), ("d", 1))]
    assert not repeat(calls)
    assert made == ["a", "b", "c"]
    assert repeat(calls[:2])


def test_after_it_nothing_is_written_down() -> None:
    arena = Arena()
    place = arena.copy(torch.ones(ROWS, WIDTH))
    with pytest.raises(KeyError), Recording(arena) as recording:
        raise KeyError
    assert call(len, "abc") == 3
    assert not arena.holds(place + 1)
    assert (recording.calls, recording.refused) == ([], None)


def test_an_alias_holds_nothing_and_a_view_does() -> None:
    arena = Arena()
    one = arena.copy(torch.randn(5, 7))
    alias, at = arena.alias(one[2:]), one.data_ptr()
    same([alias], [one[2:]])
    other = arena.like(one)
    view = one.t()[3:]
    del one
    third = arena.like(other)
    assert at not in {other.data_ptr(), third.data_ptr()}
    del view
    assert arena.like(other).data_ptr() == at
    assert arena.holds(alias)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 4, 5).permute(2, 0, 1),
        torch.randn(6, 8)[1:5:2, 3:],
        torch.tensor(7.0),
        torch.arange(1100, dtype=torch.int64),
        torch.randn(2, 3) > 0,
    ],
)
def test_a_copy_lies_as_what_it_is_of(tensor: torch.Tensor) -> None:
    arena = Arena()
    for found in (arena.copy(tensor), arena.alias(arena.copy(tensor))):
        assert torch.equal(found, tensor)
        assert (found.dtype, found.stride()) == (tensor.dtype, tensor.stride())
        assert arena.holds(found)
        assert arena.holds(found[..., -1:] if found.dim() else found)
    assert not arena.holds(tensor)
    assert arena.alias(tensor) is tensor
    assert not arena.holds(arena.copy(torch.empty(0, 3)))
