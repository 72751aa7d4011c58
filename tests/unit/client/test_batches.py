"""Batches in parts: sizes, splitting, joining, and threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from transformers.modeling_outputs import BaseModelOutputWithPooling

from shardline.client.batches import AHEAD, batch_of, join, on_nodes, parts_of, rows_of, split

ROWS = some.integers(1, 300)
NODES = some.integers(1, 9)


@given(ROWS, NODES, some.none() | some.integers(1, 40))
def test_parts_cover_the_batch_and_none_is_empty(
    rows: int, nodes: int, part_rows: int | None
) -> None:
    sizes = parts_of(rows, nodes, part_rows)
    assert sum(sizes) == rows
    assert min(sizes) > 0
    assert part_rows is None or max(sizes) <= part_rows
    spans = rows_of(sizes)
    assert spans[0][0] == 0
    assert [stop - start for start, stop in spans] == list(sizes)
    assert all(one[1] == other[0] for one, other in pairwise(spans))


@given(ROWS, NODES)
def test_each_node_has_work_where_there_are_rows_enough(rows: int, nodes: int) -> None:
    sizes = parts_of(rows, nodes)
    assert len(sizes) == 1 or nodes > 1
    if rows >= 64 * nodes and nodes > 1:
        assert len(sizes) == 8 * nodes
        assert max(sizes) <= 2 + rows // len(sizes), "the last node waits for the longest"
    if len(sizes) > 1:
        assert len(set(sizes)) > 1, "shapes must tell what has rows"


@given(some.integers(2, 40), some.integers(1, 40), some.data())
def test_what_was_split_is_joined_to_the_same(
    rows: int, part_rows: int, data: some.DataObject
) -> None:
    sizes = parts_of(rows, 2, part_rows)
    wide = data.draw(some.integers(1, 3))
    x, y = torch.arange(rows * wide).reshape(rows, wide), torch.arange(rows)
    parts = split(((x,), {"y": y, "flag": True, "text": ["a"]}), sizes)
    outputs: list[Any] = [
        {"x": part[0][0], "rest": (part[1]["y"], part[1]["flag"])} for part in parts
    ]
    again = join(outputs, sizes)
    if len(sizes) > 1 and len(set(sizes)) == 1:
        assert again is None
        assert set(sizes) == {1}
        return
    assert again is not None
    assert torch.equal(again["x"], x)
    assert torch.equal(again["rest"][0], y)
    assert again["rest"][1] is True
    assert all(part[1]["text"] == ["a"] for part in parts)


def test_what_transformers_returns_keeps_its_kind() -> None:
    outputs: list[Any] = [
        BaseModelOutputWithPooling(
            last_hidden_state=torch.full((rows, 2, 3), float(rows)),  # pyright: ignore[reportArgumentType]
            hidden_states=(torch.zeros(rows, 1), torch.ones(rows, 1)),  # pyright: ignore[reportArgumentType]
        )
        for rows in (2, 3)
    ]
    joined: Any = join(outputs, (2, 3))
    assert joined.__class__ is BaseModelOutputWithPooling
    assert joined.last_hidden_state.shape == (5, 2, 3)
    assert joined.pooler_output is None
    assert [tuple(one.shape) for one in joined.hidden_states] == [(5, 1), (5, 1)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.tensor(1.0), torch.tensor(2.0)),
        (torch.ones(2, 2), torch.ones(3, 3)),
        (torch.ones(4), torch.ones(4)),
        (2, 3),
        (torch.ones(2, 4), torch.ones(3, 5)),
        ({"x": torch.ones(2)}, {"y": torch.ones(3)}),
        ((torch.ones(2),), [torch.ones(3)]),
        (torch.ones(2), None),
    ],
)
def test_what_does_not_follow_the_batch_is_not_joined(one: Any, other: Any) -> None:
    assert join([one, other], (2, 3)) is None


def test_equal_parts_tell_nothing() -> None:
    assert join([torch.ones(2), torch.ones(2)], (2, 2)) is None


def test_the_batch_is_the_first_size_of_all_tensors() -> None:
    x = torch.ones(4, 2)
    assert batch_of(((x,), {"y": OrderedDict(z=torch.ones(4)), "flag": 1})) == 4
    assert batch_of(((x,), {"y": torch.ones(3)})) == 1
    assert batch_of(((x,), {"y": torch.tensor(1)})) == 1
    assert batch_of(((), {"flag": True})) == 1
    assert batch_of(((torch.ones(0, 2),), {})) == 1


@dataclass
class Meeting:
    """So many threads that are all there at the same time."""

    barrier: threading.Barrier

    def __call__(self, part: int) -> int:
        self.barrier.wait(60)
        return 10 * part


def test_each_node_has_a_part_and_the_next_one_and_results_keep_their_order() -> None:
    parts = list(range(10))
    assert on_nodes(Meeting(threading.Barrier(5)), parts, 2) == [10 * part for part in parts]


def test_a_parts_own_work_here_takes_one_core_and_later_threads_as_many_as_before() -> None:
    before, later = torch.get_num_threads(), ThreadPoolExecutor(1)
    torch.set_num_threads(3)
    try:
        assert on_nodes(lambda _: torch.get_num_threads(), [1, 2, 3], 2) == [1, 1, 1]
        assert torch.get_num_threads() == 3
        with later:
            assert later.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)


def test_one_part_needs_no_thread() -> None:
    assert on_nodes(lambda _: threading.current_thread(), [1], 3) == [threading.current_thread()]


def test_whoever_interrupts_it_does_not_wait_for_parts_that_nobody_has_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, goes_on = threading.Semaphore(0), threading.Event()
    done: list[int] = []

    def work(part: int) -> None:
        begun.release()
        goes_on.wait(60)
        done.append(part)

    def interrupted(*_: object, **__: object) -> None:
        for _turn in range(AHEAD + 1):
            assert begun.acquire(timeout=60)
        raise KeyboardInterrupt

    class Pool(ThreadPoolExecutor):
        def shutdown(self, *args: Any, **kwargs: Any) -> None:
            goes_on.set()
            super().shutdown(*args, **kwargs)

    monkeypatch.setattr("shardline.client.batches.wait", interrupted)
    monkeypatch.setattr("shardline.client.batches.ThreadPoolExecutor", Pool)
    with pytest.raises(KeyboardInterrupt):
        on_nodes(work, list(range(100)), 1)
    assert len(done) == AHEAD + 1


def test_the_first_failure_ends_it() -> None:
    done: list[int] = []

    def work(part: int) -> int:
        if part == 1:
            raise ValueError("part 1")
        done.append(part)
        return part

    with pytest.raises(ValueError, match="part 1"):
        on_nodes(work, list(range(1, 100)), 1)
    assert len(done) < 98
