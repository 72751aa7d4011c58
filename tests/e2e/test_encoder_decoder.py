"""Text-to-text and speech over real nodes: the tokens of one process, also when a node dies."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
import transformers
from transformers import WhisperFeatureExtractor

from shardline.cli.local import local_swarm
from shardline.client import Mended
from shardline.core.spans import Span
from shardline.model import load_speech, load_tokenizer, trace
from tests.parity.pairs import PAIRS, SPEECH_FRAMES, reads
from tests.parity.zoo import Tiny, make
from tests.support.characters import save_characters
from tests.support.sounds import RATE, write_wave
from tests.support.swarms import nodes_here

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from shardline.client import Swarm, SwarmModel
    from tests.e2e.conftest import Ended

TOKENS = 12
GREEDY: dict[str, Any] = {"max_new_tokens": TOKENS, "do_sample": False}
SAMPLING: dict[str, Any] = {"max_new_tokens": TOKENS, "do_sample": True, "temperature": 0.8}


@dataclass(frozen=True)
class Served:
    """A tiny encoder-decoder whose chains are spread over nodes, and the whole of it."""

    tiny: Tiny
    directory: Path
    spans: list[Span]
    """Of the nodes."""
    swarm: Swarm
    model: SwarmModel
    whole: Any

    def given(self, rows: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """What `generate` takes first, and by name."""
        first, *rest = reads(self.tiny, rows).items()
        return first[1], dict(rest)


def made(name: str, directory: Path) -> Path:
    """A tiny model that reads and writes characters, or writes down up to a second of sound."""
    make(next(tiny for tiny in PAIRS if tiny.name == name), directory)
    save_characters(directory)
    if name == "whisper":
        hears: Any = WhisperFeatureExtractor(
            feature_size=8, chunk_length=1, hop_length=RATE // SPEECH_FRAMES
        )
        hears.save_pretrained(directory)
    return directory


def spans_of(directory: Path, *nodes: int) -> list[Span]:
    """Of nodes that begin so many blocks from the border between the chains, and of a first one."""
    plan = trace(directory)
    border = plan.chains[1].span.start
    cuts = (0, *(border + from_border for from_border in nodes), plan.blocks)
    return [Span(*pair) for pair in pairwise(cuts)]


def within(chain: Span, spans: list[Span]) -> list[Span]:
    """These spans, as far as they are of this chain."""
    cut = [(max(span.start, chain.start), min(span.stop, chain.stop)) for span in spans]
    return [Span(start, stop) for start, stop in cut if start < stop]


@pytest.fixture(scope="module", params=["t5", "whisper"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Served]:
    tiny = next(tiny for tiny in PAIRS if tiny.name == request.param)
    directory = made(tiny.name, tmp_path_factory.mktemp(tiny.name))
    whole = getattr(transformers, tiny.auto).from_pretrained(directory, dtype=torch.float32)
    spans = spans_of(directory, -1, 1) if tiny.name == "t5" else spans_of(directory, 1)
    with nodes_here(directory, spans) as swarm:
        model = swarm.model_now(str(directory))
        yield Served(tiny, directory, spans, swarm, model, whole.eval())


def seeded(generate: Callable[..., Any], first: torch.Tensor, options: dict[str, Any]) -> Any:
    cast("Any", torch).manual_seed(3)
    return generate(first, **options)


def test_nodes_write_what_one_process_writes(served: Served) -> None:
    model = served.model
    first, more = served.given(rows=2)
    for options in (GREEDY | more, SAMPLING | more):
        ours = seeded(model.generate, first, options)
        assert torch.equal(ours, seeded(served.whole.generate, first, options))
    assert len(set(ours.flatten().tolist())) > 3, "the random model is too dull to test with"
    inputs = reads(served.tiny) | {"decoder_input_ids": torch.tensor([[2, 7, 9]])}
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, served.whole(**inputs).logits)


def test_an_encoders_states_cross_each_link_once(served: Served) -> None:
    model = served.model
    first, more = served.given(rows=1)
    model.generate(first, **GREEDY, **more)
    assert model.last is not None
    encoder, decoder = (chain.span for chain in model.plan.chains)
    assert [hop.span for hop in model.last.reading] == within(encoder, served.spans)
    writing = [hop.span for hop in model.last.chain]
    assert writing == within(decoder, served.spans)
    _, begun, *later = [step.moved_bytes for step in model.last.steps]
    states = served.whole.get_encoder()(first, **more).last_hidden_state
    assert len(later) == TOKENS - 1
    assert begun - max(later) > 0.9 * len(writing) * states.nbytes


def test_a_person_gets_text_from_text_and_from_speech(
    served: Served, shardline: Callable[..., Ended], tmp_path: Path
) -> None:
    speech = served.tiny.name == "whisper"
    sound = write_wave(tmp_path / "x.wav", 0.4 * torch.sin(torch.arange(9000) * 0.2)[:, None])
    asked = ("--audio", sound) if speech else ("--prompt", "all of this")
    words: Any = load_tokenizer(served.directory)
    given = (
        load_speech(served.directory, sound)
        if speech
        else words("all of this", return_tensors="pt")["input_ids"]
    )
    ids = served.whole.generate(given, **GREEDY)[0, 0 if speech else 1 :]
    join = ("--join", served.swarm.invite.encode(), "--max-new-tokens", TOKENS)
    ended = shardline("generate", served.directory, *asked, *join, "--json")
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    assert report["token_ids"] == ids.tolist()
    assert report["text"] == words.decode(ids, skip_special_tokens=True)
    assert sum(hop["stop"] - hop["start"] for hop in report["chain"]) == served.model.plan.blocks
    other = ("--prompt", "x") if speech else ("--audio", sound)
    needed = "--audio FILE" if speech else "--prompt TEXT"
    shardline("generate", served.directory, *other, *join).one_line(2, "this model", needed)
    shardline("generate", served.directory, *join).one_line(2, "--prompt TEXT or --audio FILE")
    shardline("generate", served.directory, *asked, *other, *join).one_line(
        2, "--prompt TEXT or --audio FILE"
    )


@pytest.mark.parametrize("at", [random.Random(29).randrange(2, TOKENS - 3)])
def test_a_node_that_dies_while_the_decoder_writes_changes_no_token(
    tmp_path: Path, at: int
) -> None:
    """Who takes over is sent the session's first step again, the encoder's states in it."""
    directory = made("t5", tmp_path)
    tiny = PAIRS[0]
    whole = getattr(transformers, tiny.auto).from_pretrained(directory, dtype=torch.float32)
    (ids, *_) = reads(tiny).values()
    expected = whole.generate(ids, **GREEDY)[0, 1:].tolist()
    told: list[Mended | str] = []
    with local_swarm(directory, spans_of(directory, 1) * 2) as local:
        model = local.swarm.model_now(str(directory), tell=told.append)
        names = {record.node: record.name for record in local.swarm.nodes_now()}
        seen: list[int] = []
        for token in model.stream(ids, **GREEDY):
            seen.append(token)
            if len(seen) == at:
                for hop in model.chain:
                    local.kill(names[hop.node])
        assert seen == expected
    assert any(isinstance(news, Mended) for news in told)
