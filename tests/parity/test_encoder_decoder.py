"""Encoder-decoders over spans of both chains equal the whole model, bit for bit, step for step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
import transformers
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from shardline.codec import Marker
from shardline.core.errors import PeerFault, Unsupported
from shardline.core.spans import Span
from shardline.model import (
    Call,
    CrossCache,
    Crossing,
    Returned,
    SessionCache,
    load_ends,
    load_span,
    trace,
)
from tests.parity.chains import CPU, LocalChain, difference
from tests.parity.pairs import PAIRS, reads
from tests.parity.zoo import Tiny, make

if TYPE_CHECKING:
    from transformers.cache_utils import Cache

    from shardline.model import ChainPlan

TOKENS = 12
GREEDY: dict[str, Any] = {"do_sample": False}
SAMPLING: dict[str, Any] = {"do_sample": True, "temperature": 0.8}
T5 = pytest.mark.parametrize("pair", PAIRS[:1], ids=["t5"], indirect=True)


class Ledger(LocalChain):
    """Notes each step's first block, and how many bytes it moved."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.moved: list[tuple[int, int]] = []
        self.sent: list[list[SessionCache]] = []
        """The caches of each session that was sent an encoder's states."""

    def __call__(self, cache: Cache | None, crossing: Crossing) -> Returned:
        before = self.bytes_moved
        returned = super().__call__(cache, crossing)
        if cache is not None and crossing.kept:
            self.sent.append(self.sessions[cache])
        self.moved.append((crossing.start, self.bytes_moved - before))
        return returned


@dataclass
class Pair:
    """One architecture: the whole model from its files, and the same over spans."""

    tiny: Tiny
    plan: ChainPlan
    whole: Any

    def over(self, spans: int) -> tuple[Any, Ledger]:
        """Its ends, and the chain behind them; one span holds blocks of both of its chains."""
        border, stop = self.plan.chains[1].span.start, self.plan.blocks
        cuts = {2: [0, border + 1, stop], 3: [0, 1, border + 1, stop]}[spans]
        held = [
            load_span(self.plan, Span(*pair), dtype=torch.float32, device=CPU)
            for pair in pairwise(cuts)
        ]
        chain = Ledger(held)
        return load_ends(self.plan, chain, dtype=torch.float32, device=CPU), chain


@pytest.fixture(scope="session", params=PAIRS, ids=lambda tiny: tiny.name)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    tiny: Tiny = request.param
    directory = tmp_path_factory.mktemp(tiny.name)
    make(tiny, directory)
    auto = getattr(transformers, tiny.auto)
    whole = auto.from_pretrained(directory, dtype=torch.float32).eval()
    return Pair(tiny, trace(directory), whole)


def written(
    model: Any, given: dict[str, torch.Tensor], options: dict[str, Any]
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """All ids, and each step's logits."""
    cast("Any", torch).manual_seed(11)
    asked = {"max_new_tokens": TOKENS, "return_dict_in_generate": True, "output_logits": True}
    found = model.generate(**given, **options, **asked)
    return found.sequences, found.logits


@pytest.mark.parametrize(("spans", "options"), [(2, SAMPLING), (3, GREEDY)], ids=["2", "3"])
def test_tokens_and_logits_are_those_of_one_process(
    pair: Pair, spans: int, options: dict[str, Any]
) -> None:
    """Sounds and padded texts, two at once; and an encoder's states cross once."""
    ends, chain = pair.over(spans)
    given = reads(pair.tiny, rows=2)
    expected_ids, expected = written(pair.whole, given, options)
    ids, logits = written(ends, given, options)
    assert torch.equal(ids, expected_ids)
    assert difference(logits, expected) == 0.0
    if options is SAMPLING:
        assert torch.bincount(ids.flatten()).count_nonzero() > 3, "too dull to test with"
    _check_bytes(pair, chain)


def _check_bytes(pair: Pair, chain: Ledger) -> None:
    """One run of the encoder, a step for each token, and states in the first of these only."""
    encoder, decoder = pair.plan.chains
    assert [start for start, _ in chain.moved] == [encoder.span.start] + [
        decoder.span.start
    ] * TOKENS
    first, *later = [moved for start, moved in chain.moved if start == decoder.span.start]
    (sent,) = chain.sent
    states_bytes = sum(cache.kept[0].nbytes for cache in sent if isinstance(cache, CrossCache))
    assert states_bytes
    assert len(sent) == 2, "the decoder is on two spans"
    assert first - max(later) > 0.9 * states_bytes


@T5
@torch.no_grad()
def test_a_forward_without_a_cache_is_bit_equal_and_opens_no_session(pair: Pair) -> None:
    ends, chain = pair.over(3)
    given = reads(pair.tiny, rows=2) | {"decoder_input_ids": torch.tensor([[0, 7, 9], [0, 4, 4]])}
    expected = pair.whole(**given, use_cache=False)
    found = ends(**given, use_cache=False)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.encoder_last_hidden_state, expected.encoder_last_hidden_state)
    assert not chain.sessions


@T5
@torch.no_grad()
def test_the_callers_cache_is_of_the_right_lengths_and_holds_nothing(pair: Pair) -> None:
    ends, chain = pair.over(2)
    given = reads(pair.tiny)
    caches: list[EncoderDecoderCache] = []
    for model in (pair.whole, ends):
        states = model.get_encoder()(**given)
        cache = EncoderDecoderCache(*(DynamicCache(config=model.config) for _ in range(2)))
        for token in (0, 5, 9):
            written = torch.tensor([[token]])
            model(encoder_outputs=states, decoder_input_ids=written, past_key_values=cache)
        caches.append(cache)
    whole, ghost = caches
    for index in range(len(pair.plan.chains[1].span)):
        assert ghost.get_seq_length(index) == whole.get_seq_length(index) == 3
        own, theirs = ghost.cross_attention_cache, whole.cross_attention_cache
        assert own.get_seq_length(index) == theirs.get_seq_length(index) == 11
        typeless: tuple[Any, Any] = ghost, whole
        assert [cache.is_updated[index] for cache in typeless] == [True, True]
        assert typeless[0].cross_attention_cache.layers[index].keys.nbytes == 11
    held = chain.sessions[ghost]
    for cache in held:
        cache.check_integrity()
        assert cache.memory_bytes > 3 * 64 * 4
    states.last_hidden_state = states.last_hidden_state + 1
    with pytest.raises(Unsupported, match="states were changed within a session"):
        ends(encoder_outputs=states, decoder_input_ids=written, past_key_values=ghost)
    with pytest.raises(Unsupported, match="states were changed within a session"):
        ends.get_decoder()(input_ids=written, past_key_values=ghost)


@T5
@torch.no_grad()
def test_states_that_nobody_would_count_are_refused(pair: Pair) -> None:
    _, chain = pair.over(2)
    seen: list[Crossing] = []

    def run(cache: Cache | None, crossing: Crossing) -> Returned:
        seen.append(crossing)
        return chain(cache, crossing)

    ends: Any = load_ends(pair.plan, run, dtype=torch.float32, device=CPU)
    ends.generate(**reads(pair.tiny), max_new_tokens=1)
    sent = seen[-1]
    (states,) = sent.kept
    hidden, mask, bias, marker, *rest = sent.calls[0].args
    assert marker == Marker("kept", 0)
    call = Call((hidden, mask, bias, states, *rest), sent.calls[0].kwargs)
    by_name = sent.calls[0].kwargs | {"encoder_hidden_states": states}
    named = Call((hidden, mask, bias), by_name)
    span = load_span(pair.plan, pair.plan.chains[1].span, dtype=torch.float32, device=CPU)
    for crossing, why in (
        (replace(sent, kept=(), calls=(call, *sent.calls[1:])), "where nobody counts them"),
        (replace(sent, kept=(), calls=(named, *sent.calls[1:])), "where nobody counts them"),
        (replace(sent, kept=(states, states)), "2 encoder's states, not 1"),
        (replace(sent, kept=()), "names kept 0, which nobody sent"),
    ):
        with pytest.raises(PeerFault, match=why):
            span.run(crossing, span.new_cache())


@T5
@torch.no_grad()
def test_what_a_session_cannot_follow_is_refused(pair: Pair) -> None:
    ends, chain = pair.over(2)
    given = reads(pair.tiny)
    with pytest.raises(Unsupported, match="beam search"):
        ends.generate(**given, max_new_tokens=4, num_beams=2)
    with pytest.raises(Unsupported, match="a StaticCache cannot stand"):
        ends.generate(**given, max_new_tokens=4, cache_implementation="static")
    with pytest.raises(Unsupported, match="a DynamicCache cannot stand"):
        ends(
            **given,
            decoder_input_ids=torch.tensor([[0]]),
            past_key_values=DynamicCache(config=pair.whole.config),
        )
    cache = EncoderDecoderCache(*(DynamicCache(config=ends.config) for _ in range(2)))
    start = {"decoder_input_ids": torch.tensor([[0]]), "past_key_values": cache}
    ends(**given, **start)
    for span in chain.sessions[cache]:
        assert isinstance(span, CrossCache)
        span.kept = ()
    with pytest.raises(PeerFault, match="names kept 0, which nobody sent"):
        ends(**given, **start)
