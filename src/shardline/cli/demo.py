"""`shardline demo`: the main job on one machine, with real processes and a real small model."""

from __future__ import annotations

import json
import queue
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from shardline.cli.options import json_option
from shardline.cli.progress import Progress
from shardline.core.errors import BadInput, GiveUp, NoSuchModel
from shardline.core.ids import short

if TYPE_CHECKING:
    from shardline.cli.generate import Sampling
    from shardline.cli.local import LocalSwarm
    from shardline.client import Mended
    from shardline.core.ids import NodeId
    from shardline.core.spans import Span

__all__ = ["demo", "shipped_model"]

PROMPT = "One cold morning, Anna"
KILL_AT = 25
"""The token after which a node dies: in the middle of a sentence of most stories."""
MODEL = "fable-2m"


def shipped_model() -> Path:
    """Where the model that comes with shardline is: in the package, or in the checkout."""
    package = Path(__file__).parents[1]
    places = [package / "models" / MODEL, package.parents[1] / "models" / MODEL]
    for place in places:
        if place.is_dir():
            return place
    raise NoSuchModel(f"{MODEL} is not installed: run the demo from a checkout of shardline")


@click.command()
@click.option("--nodes", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--max-new-tokens", type=click.IntRange(min=2), default=120, show_default=True)
@click.option("--prompt", default=PROMPT, show_default=True)
@click.option("--kill/--no-kill", default=True, help="Kill a node in mid-sentence.")
@json_option
def demo(*, nodes: int, max_new_tokens: int, prompt: str, kill: bool, as_json: bool) -> None:
    """Spread a small model over NODES local processes, write a story, and kill a node meanwhile."""
    model = shipped_model()

    from shardline.cli.generate import Sampling
    from shardline.cli.local import local_swarm, unequal_spans
    from shardline.model import trace

    blocks = trace(model).blocks
    if nodes > blocks:
        raise BadInput(f"{MODEL} has {blocks} blocks: at most that many nodes")
    spans = unequal_spans(blocks, nodes)
    spare = [spans[nodes // 2]] if kill else []
    sampling = Sampling(max_new_tokens)
    with (
        Progress(f"starting {nodes + len(spare)} nodes", wanted=not as_json) as progress,
        local_swarm(model, spans + spare) as local,
    ):
        progress.say("loading the ends of the model")
        show = _Show(local, model, kill=spans[nodes // 2] if kill else None, quiet=as_json)
        progress.hide()
        show.write(prompt, sampling)
    alone = _alone(model, show.prompt_ids, sampling.settings())
    equal = show.writer.token_ids == alone
    if as_json:
        click.echo(json.dumps(show.report(prompt, equal=equal)))
    else:
        click.echo(show.picture())
        click.echo(show.summary(equal=equal))
    if not equal:
        raise GiveUp("the swarm's tokens differ from those of one process")


class _Show:
    """The story as it is written, and what happens to the nodes meanwhile."""

    def __init__(self, local: LocalSwarm, model: Path, *, kill: Span | None, quiet: bool) -> None:
        from shardline.cli.generate import Writer

        self._local = local
        self._kill = kill
        self._quiet = quiet
        self._news: queue.SimpleQueue[Mended | str] = queue.SimpleQueue()
        self._mended: list[dict[str, Any]] = []
        self._records = local.swarm.nodes_now()
        self._model = local.swarm.model_now(str(model), tell=self._news.put)
        self.writer = Writer(self._model, quiet=quiet, on_count=self._on_count)
        self.prompt_ids: list[int] = []

    def write(self, prompt: str, sampling: Sampling) -> None:
        """Write the story."""
        if not self._quiet:
            click.echo(prompt, nl=False)
        self.prompt_ids = self.writer.encode(prompt)
        self.writer.write(self.prompt_ids, sampling)

    def _on_count(self, tokens: int) -> None:
        """Between two tokens: kill when it is time, and say what happened."""
        if tokens == KILL_AT and self._kill is not None:
            victim = next(hop for hop in self._model.chain if hop.span == self._kill)
            self._local.kill(self._name(victim.node))
        while not self._news.empty():
            self._tell(self._news.get())

    def _tell(self, news: Mended | str) -> None:
        if isinstance(news, str):
            line = news
        else:
            lost = ", ".join(f"{self._name(hop.node)} ({hop.span})" for hop in news.lost)
            by = ", ".join(f"{self._name(hop.node)} ({hop.span})" for hop in news.hops)
            line = f"{lost} died; {by} took over, {news.step} steps sent again"
            self._mended.append({"lost": lost, "by": by, "step": news.step, "took_s": news.took_s})
        if not self._quiet:
            click.echo(f"\n  ── {line} ──")

    def _name(self, node: NodeId) -> str:
        return next((one.name for one in self._records if one.node == node), short(node))

    def report(self, prompt: str, *, equal: bool) -> dict[str, Any]:
        """As machines read it."""
        from shardline.cli.generate import chain_rows

        went = self.writer.generation
        return {
            "tokens_equal": equal,
            "text": prompt + self.writer.text,
            "chain": chain_rows(went.chain, self._records),
            "tokens_per_s": went.tokens_per_s,
            "time_to_first_token_s": went.time_to_first_token_s,
            "hop_overhead_ms": went.hop_overhead_ms,
            "mended": self._mended,
        }

    def summary(self, *, equal: bool) -> str:
        """How it went, in one line."""
        went = self.writer.generation
        return (
            f"{len(self.writer.token_ids)} tokens at {went.tokens_per_s:.1f} tokens/s, first after "
            f"{went.time_to_first_token_s:.2f} s, {went.hop_overhead_ms:.2f} ms a hop; "
            f"{'the same' if equal else 'NOT the same'} tokens as one process"
        )

    def picture(self) -> str:
        """The chain from top to bottom, each node's blocks as its stretch of a bar."""
        went = self.writer.generation
        blocks = went.chain[-1].span.stop
        wide = max(len(name) for name in ["you", *(record.name for record in self._records)])
        lines = ["", f"  {'you':{wide}}  embeddings", f"  {'▼':^{wide}}"]
        for hop, node_ms in zip(went.chain, went.nodes_ms, strict=True):
            start, stop = hop.span.start, hop.span.stop
            bar = "·" * start + "█" * (stop - start) + "·" * (blocks - stop)
            name, place = self._name(hop.node), f"blocks {hop.span}"
            lines.append(f"  {name:{wide}}  {bar}  {place:12}  {node_ms:.1f} ms a token")
        lines += [f"  {'▼':^{wide}}", f"  {'you':{wide}}  norm, head, next token", ""]
        return "\n".join(lines)


def _alone(model: Path, prompt_ids: list[int], settings: dict[str, Any]) -> list[int]:
    """The same tokens' way in one process, by Transformers alone."""
    import torch
    from transformers import AutoModelForCausalLM

    from shardline.model import quiet

    torch.set_num_threads(1)
    with quiet():
        loaded = cast("Any", AutoModelForCausalLM).from_pretrained(model, dtype=torch.float32)
    out = loaded.eval().generate(torch.tensor([prompt_ids]), **settings)
    return out[0, len(prompt_ids) :].tolist()
