"""What `shardline eval` does: nodes for each kind of weights, each codec, all tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

import torch

from shardline.cli.bench_run import even_spans
from shardline.cli.bench_wanted import dtype_of, serve_options
from shardline.cli.local import local_swarm
from shardline.client import Terms
from shardline.core.errors import BadInput
from shardline.evaluation import Way, Weigher, compare
from shardline.model import is_graph, load_tokenizer, open_graph, quiet, resolve, trace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from shardline.client import SwarmModel
    from shardline.evaluation import Measured, Row, Tokens
    from shardline.model import ChainPlan

    Ask = Callable[[SwarmModel], Measured]

__all__ = ["measure_text", "measure_ways"]

EIGHT_BITS_BESIDE = "bfloat16"
"""What nodes compute in beside weights of fewer bits."""


class _Task(Protocol):
    @property
    def name(self) -> str: ...

    def measure(self, model: Weigher) -> Measured: ...


def measure_text(  # noqa: PLR0913  (what, how, and by whom)
    model: str,
    tasks: Sequence[_Task],
    kinds: Sequence[str],
    codecs: Sequence[str],
    *,
    nodes: int,
    threads: int,
    tell: Callable[[str], None],
) -> tuple[ChainPlan, list[Row]]:
    """Tasks of text by a decoder, in each way; raises BadInput of many kinds."""
    plan = trace(resolve(model))
    if not plan.writes or plan.crosses:
        raise BadInput(f"{plan.architecture} is no decoder: its texts cannot be weighed one by one")
    if nodes > plan.blocks:
        raise BadInput(f"{nodes} nodes, but the model has {plan.blocks} blocks: give less")
    tokens = cast("Tokens", load_tokenizer(plan.model_dir))

    def asking(task: _Task) -> Ask:
        def ask(model: SwarmModel) -> Measured:
            return task.measure(Weigher(model, tokens, context_tokens=plan.context_tokens))

        return ask

    asks = {task.name: asking(task) for task in tasks}
    rows = measure_ways(
        plan.model_dir, asks, kinds, codecs, nodes=nodes, threads=threads, tell=tell
    )
    return plan, rows


def measure_ways(  # noqa: PLR0913
    model: Path,
    asks: Mapping[str, Ask],
    kinds: Sequence[str],
    codecs: Sequence[str],
    *,
    nodes: int,
    threads: int,
    tell: Callable[[str], None],
) -> list[Row]:
    """Every task by every kind of weights over every codec, on nodes with as many blocks each.

    The weights of a cut graph stay as they were saved, whatever they are called.
    """
    torch.set_num_threads(threads)
    cut = is_graph(model)
    blocks = open_graph(model).blocks if cut else trace(model).blocks
    found: dict[str, dict[Way, Measured]] = {name: {} for name in asks}
    for kind in kinds:
        tell(f"starting nodes in {kind}")
        with local_swarm(
            model,
            even_spans(blocks, nodes),
            dtype=None if cut else dtype_of(kind) or EIGHT_BITS_BESIDE,
            threads=threads,
            options=serve_options(kind),
        ) as local:
            for codec in codecs:
                way = Way(kind, codec)
                terms = Terms(wire=codec)
                swarm_model = local.swarm.model_now(str(model), terms=terms, tell=_nothing)
                for name, ask in asks.items():
                    tell(f"{name}: {way}")
                    with quiet():
                        found[name][way] = ask(swarm_model)
    return [row for name, ways in found.items() for row in compare(name, ways)]


def _nothing(_news: object) -> None:
    """That text is not exact is what is measured."""
