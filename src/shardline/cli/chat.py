"""`shardline chat`: a conversation whose cache stays on the nodes between the turns."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

import click

from shardline.cli.generate import Sampling, Writer, sampling_options
from shardline.cli.news import tell
from shardline.cli.options import (
    address_book,
    join_option,
    keep_invite,
    model_argument,
    standby_option,
    the_invite,
    wire_options,
)
from shardline.cli.progress import Progress
from shardline.core.errors import PromptTooLong

if TYPE_CHECKING:
    from transformers import Cache

    from shardline.client import SwarmModel

__all__ = ["chat"]


@click.command()
@model_argument
@join_option
@sampling_options
@standby_option
@wire_options
def chat(  # noqa: PLR0913  (one for each option)
    *,
    model: str,
    join_text: str | None,
    sampling: Sampling,
    standby: int,
    wire: str,
    wire_block: int,
) -> None:
    """Talk with MODEL, whose blocks the swarm holds; an empty line or Ctrl-D ends it."""
    invite = the_invite(join_text)

    from shardline.client import Terms, joined

    terms = Terms(wire, wire_block)
    with joined(invite, book=address_book()) as swarm:
        keep_invite(invite)
        with Progress("loading"):
            swarm_model = swarm.model_now(model, standby=standby, terms=terms, tell=tell)
            talk = _Talk(swarm_model, Writer(swarm_model), sampling)
        while line := _ask():
            talk.turn(line)


def _ask() -> str:
    if sys.stdin.isatty():
        click.echo("> ", nl=False)
    return sys.stdin.readline().strip()


class _Talk:
    """The turns so far, as the model reads them."""

    def __init__(self, model: SwarmModel, writer: Writer, sampling: Sampling) -> None:
        self._model = model
        self._writer = writer
        self._sampling = sampling
        self._messages: list[dict[str, str]] = []
        self._cache: Cache | None = None
        self._ids: list[int] = []

    def turn(self, line: str) -> None:
        """One line of the person's, one answer of the model's."""
        self._messages.append({"role": "user", "content": line})
        ids = self._encode()
        context = self._model.plan.context_tokens
        if context is not None and len(ids) >= context:
            self._messages = self._messages[-1:]
            ids = self._encode()
            if len(ids) >= context:
                raise PromptTooLong(f"{len(ids)} tokens are more than the context of {context}")
            click.echo("(the talk outgrew the model's context: it starts anew)", err=True)
        self._writer.write(ids, self._sampling, self._memory(ids))
        self._ids = ids + self._writer.token_ids[:-1]  # the last token was never fed back
        self._messages.append({"role": "assistant", "content": self._writer.text})

    def _encode(self) -> list[int]:
        tokenizer = cast("Any", self._writer.tokenizer)  # its annotations are unions of unions
        if tokenizer.chat_template:
            return tokenizer.apply_chat_template(
                self._messages, add_generation_prompt=True, return_dict=False
            )
        return self._writer.encode("\n".join(turn["content"] for turn in self._messages))

    def _memory(self, ids: list[int]) -> Cache:
        """The cache of the turns before, if these tokens go on from it; else a fresh one."""
        from transformers import DynamicCache

        if self._cache is None or ids[: len(self._ids)] != self._ids:
            self._cache = DynamicCache(config=self._model.plan.config)
        return self._cache
