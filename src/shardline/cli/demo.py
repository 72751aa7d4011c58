"""`shardline demo`: the main job on one machine, with real processes and a real small model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from shardline.cli.options import json_option
from shardline.cli.progress import Progress
from shardline.core.errors import BadInput, GiveUp, NoSuchModel
from shardline.core.ids import short

if TYPE_CHECKING:
    from shardline.client import Generation
    from shardline.swarm import NodeRecord

__all__ = ["demo", "shipped_model"]

PROMPT = "One morning, Anna"
MODEL = "fable-5m"


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
@json_option
def demo(*, nodes: int, max_new_tokens: int, prompt: str, as_json: bool) -> None:
    """Spread a small model over NODES local processes and write a story with it."""
    model = shipped_model()

    from shardline.cli.generate import Sampling, Writer, chain_rows
    from shardline.cli.local import local_swarm, unequal_spans
    from shardline.model import trace

    blocks = trace(model).blocks
    if nodes > blocks:
        raise BadInput(f"{MODEL} has {blocks} blocks: at most that many nodes")
    sampling = Sampling(max_new_tokens)
    with (
        Progress(f"starting {nodes} nodes", wanted=not as_json) as progress,
        local_swarm(model, unequal_spans(blocks, nodes)) as local,
    ):
        progress.say("loading the ends of the model")
        swarm_model = local.swarm.model_now(str(model))
        writer = Writer(swarm_model, quiet=as_json, on_count=progress.count)
        if not as_json:
            progress.hide()
            click.echo(f"{prompt}", nl=False)
        prompt_ids = writer.encode(prompt)
        writer.write(prompt_ids, sampling)
        went, records = writer.generation, local.swarm.nodes_now()
    alone = _alone(model, prompt_ids, sampling.settings())
    equal = writer.token_ids == alone
    if as_json:
        report = {
            "tokens_equal": equal,
            "text": prompt + writer.text,
            "chain": chain_rows(went, records),
            "tokens_per_s": went.tokens_per_s,
            "time_to_first_token_s": went.time_to_first_token_s,
            "hop_overhead_ms": went.hop_overhead_ms,
        }
        click.echo(json.dumps(report))
    else:
        click.echo(_picture(went, records))
        click.echo(
            f"{len(writer.token_ids)} tokens at {went.tokens_per_s:.1f} tokens/s, first after "
            f"{went.time_to_first_token_s:.2f} s, {went.hop_overhead_ms:.2f} ms a hop; "
            f"{'the same' if equal else 'NOT the same'} tokens as one process"
        )
    if not equal:
        raise GiveUp("the swarm's tokens differ from those of one process")


def _picture(went: Generation, records: list[NodeRecord]) -> str:
    """The chain from top to bottom, each node's blocks as its stretch of a bar."""
    names = {record.node: record.name for record in records}
    blocks = went.chain[-1].span.stop
    wide = max(len(name) for name in ["you", *names.values()])
    lines = ["", f"  {'you':{wide}}  embeddings", f"  {'▼':^{wide}}"]
    for hop, node_ms in zip(went.chain, went.nodes_ms, strict=True):
        start, stop = hop.span.start, hop.span.stop
        bar = "·" * start + "█" * (stop - start) + "·" * (blocks - stop)
        place = f"blocks {hop.span}"
        name = names.get(hop.node, short(hop.node))  # it may have left meanwhile
        lines.append(f"  {name:{wide}}  {bar}  {place:12}  {node_ms:.1f} ms a token")
    lines += [f"  {'▼':^{wide}}", f"  {'you':{wide}}  norm, head, next token", ""]
    return "\n".join(lines)


def _alone(model: Path, prompt_ids: list[int], settings: dict[str, Any]) -> list[int]:
    """The same tokens' way in one process, by Transformers alone."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    loaded = cast("Any", AutoModelForCausalLM).from_pretrained(model, dtype=torch.float32)
    out = loaded.eval().generate(torch.tensor([prompt_ids]), **settings)
    return out[0, len(prompt_ids) :].tolist()
