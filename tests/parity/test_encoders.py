"""Every architecture that keeps no cache over 2 and 3 spans equals the whole model, bit for bit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers

from shardline.core.ids import Seat, SessionId
from shardline.core.spans import Span
from shardline.model import Crossing, Returned, load_ends, load_span, trace
from shardline.runtime import Scheduler, SpanEngine
from tests.parity.chains import CPU, LocalChain
from tests.parity.encoders import ENCODERS, Encoder, encoder, largest, make_encoder, texts

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import Cache


@pytest.mark.parametrize("entry", ENCODERS, ids=lambda entry: entry.name)
@torch.no_grad()
def test_spans_give_what_the_model_gives(entry: Encoder, tmp_path: Path) -> None:
    whole: Any = make_encoder(entry, tmp_path)
    plan = trace(tmp_path)
    assert (plan.architecture, len(plan.chains)) == (entry.kind, entry.chains)
    more = {"use_cache": False} if whole.config.is_encoder_decoder else {}
    for spans in (2, 3):
        chain = LocalChain.load(plan, spans)
        ends: Any = load_ends(plan, chain, dtype=torch.float32, device=CPU)
        for given in entry.inputs:
            assert largest(ends(**given, **more), whole(**given, **more)) == 0
        assert chain.steps == len(entry.inputs) * entry.chains


@pytest.mark.parametrize("name", ["bert", "vit"])
@torch.no_grad()
def test_bfloat16_is_bit_equal_too(name: str, tmp_path: Path) -> None:
    entry = encoder(name)
    make_encoder(entry, tmp_path)
    plan = trace(tmp_path)
    chain = LocalChain.load(plan, 2, torch.bfloat16)
    ends: Any = load_ends(plan, chain, dtype=torch.bfloat16, device=CPU)
    kind: Any = getattr(transformers, entry.kind)
    whole = kind.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    given = {
        name: value.bfloat16() if value.is_floating_point() else value
        for name, value in entry.inputs[0].items()
    }
    assert largest(ends(**given), whole(**given)) == 0


@torch.no_grad()
def test_one_tower_alone_is_one_step(tmp_path: Path) -> None:
    entry = encoder("clip")
    whole: Any = make_encoder(entry, tmp_path)
    plan = trace(tmp_path)
    chain = LocalChain.load(plan, 3)
    ends: Any = load_ends(plan, chain, dtype=torch.float32, device=CPU)
    given = texts(2, 12)
    found, expected = ends.get_text_features(**given), whole.get_text_features(**given)
    assert largest(found, expected) == 0
    assert chain.steps == 1


def test_several_threads_may_call_at_once(tmp_path: Path) -> None:
    whole: Any = make_encoder(encoder("bert"), tmp_path)
    plan = trace(tmp_path)
    chain = LocalChain.load(plan, 2)
    ends: Any = load_ends(plan, chain, dtype=torch.float32, device=CPU)

    def run(length: int) -> float:
        torch.set_num_threads(1)
        given = texts(3, length)
        with torch.no_grad():
            return largest(ends(**given), whole(**given))

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(run, range(3, 19))) == {0.0}


@torch.no_grad()
def test_steps_are_neither_cut_nor_merged_however_many_wait(tmp_path: Path) -> None:
    whole: Any = make_encoder(encoder("modernbert"), tmp_path)
    plan = trace(tmp_path)
    engine = SpanEngine(
        load_span(plan, Span(0, plan.blocks), dtype=torch.float32, device=CPU), cache_tokens=2**20
    )
    scheduler = Scheduler(engine)
    steps: list[Crossing] = []

    def note(_: Cache | None, crossing: Crossing) -> Returned:
        steps.append(crossing)
        raise NotImplementedError

    ends: Any = load_ends(plan, note, dtype=torch.float32, device=CPU)
    inputs = [texts(2, 100), texts(2, 120), texts(1, 300)]
    for given in inputs:
        with pytest.raises(NotImplementedError):
            ends(**given)
    found: dict[str, Returned] = {}
    for index, crossing in enumerate(steps):
        seat = Seat(SessionId(f"{index:032x}"), 0)
        tokens, rows = crossing.tokens, crossing.batch
        engine.open(seat, Span(0, plan.blocks), rows=rows, tokens=tokens, now_s=0.0)
        scheduler.add(seat, crossing)
    while len(scheduler):
        for seat, result in scheduler.round(now_s=0.0):
            assert isinstance(result, Returned)
            found[seat.session] = result
    replies = iter([found[f"{index:032x}"] for index in range(len(steps))])

    def answer(_: Cache | None, __: Crossing) -> Returned:
        return next(replies)

    ends = load_ends(plan, answer, dtype=torch.float32, device=CPU)
    for given in inputs:
        assert largest(ends(**given), whole(**given)) == 0
