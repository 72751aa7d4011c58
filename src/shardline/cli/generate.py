"""`shardline generate`: text from a model that is spread over the swarm."""

from __future__ import annotations

import functools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from shardline.cli.news import tell
from shardline.cli.options import (
    address_book,
    join_option,
    json_option,
    keep_invite,
    model_argument,
    standby_option,
    the_invite,
    wire_options,
)
from shardline.cli.progress import Progress
from shardline.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from transformers import Cache

    from shardline.client import Generation, Swarm, SwarmModel
    from shardline.swarm import Hop, NodeRecord

__all__ = ["Sampling", "Writer", "chain_rows", "generate", "sampling_options", "summary"]

TOKENS_MAX = 2**24
SEED_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen: greedily, unless a temperature is given."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None

    def settings(self) -> dict[str, Any]:
        """These as arguments of Transformers' `generate`."""
        settings: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "do_sample": False}
        if self.temperature > 0:
            settings["do_sample"] = True
            settings["temperature"] = self.temperature
            settings["top_p"] = 1.0 if self.top_p is None else self.top_p
            settings["top_k"] = 0 if self.top_k is None else self.top_k
        return settings


def sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every command that writes text, handed on as `sampling`."""

    @click.option("--max-new-tokens", type=click.IntRange(1, TOKENS_MAX), default=128, metavar="N")
    @click.option("--temperature", type=click.FloatRange(min=0), default=0.0, metavar="T")
    @click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), metavar="P")
    @click.option("--top-k", type=click.IntRange(min=1), metavar="K")
    @click.option(
        "--seed",
        type=click.IntRange(0, SEED_MAX),
        metavar="S",
        help="The same text again, on any split.",
    )
    @functools.wraps(command)
    def sampled(
        *,
        max_new_tokens: int,
        temperature: float,
        top_p: float | None,
        top_k: int | None,
        seed: int | None,
        **rest: Any,
    ) -> None:
        command(sampling=Sampling(max_new_tokens, temperature, top_p, top_k, seed), **rest)

    return sampled


@click.command()
@model_argument
@join_option
@click.option("--prompt", metavar="TEXT", help="What to go on from, or to turn into another text.")
@click.option("--audio", metavar="FILE", help="A wave file, for a model that writes down speech.")
@sampling_options
@standby_option
@wire_options
@json_option
def generate(  # noqa: PLR0913  (one for each option)
    *,
    model: str,
    join_text: str | None,
    prompt: str | None,
    audio: str | None,
    sampling: Sampling,
    standby: int,
    wire: str,
    wire_block: int,
    as_json: bool,
) -> None:
    """Write with MODEL, whose blocks the swarm holds: from a prompt, or what is said in a sound."""
    if (prompt is None) == (audio is None):
        raise BadInput("give what to write from: either --prompt TEXT or --audio FILE")
    invite = the_invite(join_text)

    from shardline.client import Terms, joined

    terms = Terms(wire, wire_block)
    with (
        Progress("joining the swarm", wanted=not as_json) as progress,
        joined(invite, book=address_book()) as swarm,
    ):
        keep_invite(invite)
        progress.say(f"loading the ends of {model}")
        swarm_model = swarm.model_now(model, standby=standby, terms=terms, tell=tell)
        progress.say("listening" if audio else "reading the prompt")
        writer = Writer(swarm_model, quiet=as_json, on_count=progress.count)
        writer.write(writer.hear(Path(audio)) if audio else writer.encode(prompt or ""), sampling)
        if as_json:
            click.echo(json.dumps(_report(swarm, swarm_model, writer)))
        elif sys.stderr.isatty():
            click.echo(summary(writer), err=True)


class Writer:
    """Streams a model's text to the terminal."""

    def __init__(
        self,
        model: SwarmModel,
        *,
        quiet: bool = False,
        on_count: Callable[[int], None] = lambda _: None,
    ) -> None:
        from shardline.model import load_tokenizer

        self.tokenizer = load_tokenizer(model.plan.model_dir)
        self.token_ids: list[int] = []
        self.text = ""
        self._model = model
        self._quiet = quiet
        self._on_count = on_count

    def encode(self, prompt: str) -> list[int]:
        """The prompt's token ids, with the special tokens that the model's tokenizer adds."""
        if self._model.listens:
            raise BadInput("this model listens: give it a sound, by --audio FILE")
        token_ids = self.tokenizer(prompt)["input_ids"]
        if not token_ids:
            raise BadInput("the prompt is empty: this model needs at least one token to go on from")
        return token_ids

    def hear(self, file: Path) -> torch.Tensor:
        """A wave file's features, (1, ...), as the model takes them."""
        from shardline.model import load_speech

        if not self._model.listens:
            raise BadInput("this model reads text: give it some, by --prompt TEXT")
        return load_speech(self._model.plan.model_dir, file).to(self._model.dtype)

    def write(
        self, prompt: list[int] | torch.Tensor, sampling: Sampling, cache: Cache | None = None
    ) -> None:
        """Write what follows the prompt, as it comes; `cache` is gone on with and kept."""
        import torch
        from tokenizers.decoders import DecodeStream

        if sampling.seed is not None:
            cast("Any", torch).manual_seed(sampling.seed)
        settings = sampling.settings()
        if cache is not None:
            settings["past_key_values"] = cache
        self.token_ids, self.text = [], ""
        decoder = DecodeStream(skip_special_tokens=True)
        given = prompt if isinstance(prompt, torch.Tensor) else torch.tensor([prompt])
        for token in self._model.stream(given, **settings):
            self.token_ids.append(token)
            self._on_count(len(self.token_ids))
            piece = decoder.step(self.tokenizer.backend_tokenizer, token) or ""
            self.text += piece
            if not self._quiet:
                click.echo(piece, nl=False)
                sys.stdout.flush()
        if not self._quiet:
            click.echo()

    @property
    def generation(self) -> Generation:
        """How the last text went."""
        assert self._model.last is not None
        return self._model.last


def summary(writer: Writer) -> str:
    """How the text went, in one line."""
    went = writer.generation
    nodes = len({hop.node for hop in went.reading + went.chain})
    text = (
        f"{len(writer.token_ids)} tokens, {went.tokens_per_s:.1f} tokens/s, first after "
        f"{went.time_to_first_token_s:.2f} s, over {nodes} node{'s' * (nodes > 1)}"
    )
    if not went.saved_bytes:
        return text
    share = went.moved_bytes / (went.moved_bytes + went.saved_bytes)
    codecs = " and ".join(dict.fromkeys(went.wires))
    return f"{text}, {codecs} on its links: {share:.0%} of the bytes of raw"


def chain_rows(hops: tuple[Hop, ...], nodes: list[NodeRecord]) -> list[dict[str, Any]]:
    """A chain, or the standbys beside it, as machines read them."""
    names = {record.node: record.name for record in nodes}
    return [
        {
            "node": names.get(hop.node, hop.node[:8]),
            "id": hop.node,
            "start": hop.span.start,
            "stop": hop.span.stop,
        }
        for hop in hops
    ]


def _report(swarm: Swarm, model: SwarmModel, writer: Writer) -> dict[str, Any]:
    went, nodes = writer.generation, swarm.nodes_now()
    return {
        "text": writer.text,
        "token_ids": writer.token_ids,
        "time_to_first_token_s": went.time_to_first_token_s,
        "tokens_per_s": went.tokens_per_s,
        "chain": chain_rows(went.reading + went.chain, nodes),
        "standby": chain_rows(went.standbys, nodes),
        "moved_bytes": went.moved_bytes,
        "saved_bytes": went.saved_bytes,
        "wire": list(went.wires),
        "model": model.plan.model_dir.name,
    }
