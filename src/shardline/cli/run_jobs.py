"""What `shardline run` is asked to run: a module of a person's own, a cut graph, or a model.

A job says what nodes serve, what goes in, and how the same is had in this process.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from shardline.cli.graphs import cut_module, example_of
from shardline.cli.inspect_factory import call_factory, names_factory
from shardline.cli.run_arrays import plain_tensors, read_arrays, tensors_for
from shardline.core.errors import BadInput, NoChain
from shardline.core.spans import Span
from shardline.model import (
    is_graph,
    load_stages,
    load_whole,
    model_class,
    model_config,
    open_graph,
    resolve,
    told,
    trace,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shardline.model import GraphPlan, Signature

__all__ = ["NODES", "Job", "job_of", "model_folder", "served_job", "taken"]

NODES = 3
"""Where nobody says how many."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is run, and on what."""

    name: str
    route: str
    """`chain` or `graph`."""
    folder: Path
    """What nodes serve."""
    spans: tuple[Span, ...]
    """For nodes that are started here."""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    alone: Callable[[], Any]
    """The same in this process."""


def job_of(target: str, inputs: Path | None, nodes: int | None, folder: Path) -> Job:
    """Read what is named, and what goes in; a module is cut into `folder`.

    Raises BadInput for what cannot be run, naming what is wanted.
    """
    if names_factory(target):
        return _module_job(target, inputs, nodes or NODES, folder)
    kept = Path(target).expanduser()
    if is_graph(kept):
        return _graph_job(open_graph(kept), inputs, nodes)
    model = resolve(target)
    return _model_job(model, _model_inputs(model, inputs), nodes or NODES, folder)


def _module_job(target: str, inputs: Path | None, nodes: int, folder: Path) -> Job:
    made = call_factory(target)
    plan = cut_module(made.module, made.args, made.kwargs, nodes, folder)
    args, kwargs = made.args, dict(made.kwargs)
    if inputs:
        args, kwargs = _read(plan.signature(), inputs)

    def alone() -> Any:  # noqa: ANN401  (what the module returns)
        return made.module.eval()(*args, **kwargs)

    return Job(plan.name, "graph", folder, _shares(plan.blocks, nodes), args, kwargs, alone)


def _graph_job(plan: GraphPlan, inputs: Path | None, nodes: int | None) -> Job:
    signature = plan.signature()
    if inputs is None:
        takes = ", ".join(f"{name} {told(value)}" for name, value in signature.asked().items())
        raise BadInput(f"give --inputs x.npz: {plan.name} takes {takes or 'no tensor'}")
    args, kwargs = _read(signature, inputs)

    def alone() -> Any:  # noqa: ANN401  (what the module returns)
        given = signature.bind(*args, **kwargs)
        stages = load_stages(plan, Span(0, plan.blocks), torch.device("cpu"))
        returned: Any = stages.run(plan.crossing(given))
        return signature.rebuild(given | plan.results(returned))

    spans = _shares(plan.blocks, nodes or plan.blocks)
    return Job(plan.name, "graph", plan.folder, spans, args, kwargs, alone)


def _model_job(model: Path, kwargs: dict[str, Any], nodes: int, folder: Path) -> Job:
    """A checkpoint of Transformers: its chain of blocks or, if it has none, its graph."""
    try:
        plan = trace(model)
    except NoChain:
        return _whole_job(model, kwargs, nodes, folder)

    def alone() -> Any:  # noqa: ANN401  (what the model returns)
        return cast("Any", load_whole(model))(**kwargs, **options)

    options = {"use_cache": False} if plan.writes else {}
    spans = _shares(plan.blocks, nodes)
    return Job(plan.architecture, "chain", model, spans, (), kwargs, alone)


def _whole_job(model: Path, kwargs: dict[str, Any], nodes: int, folder: Path) -> Job:
    whole: Any = load_whole(model, cache=False)
    plan = cut_module(whole, (), kwargs, nodes, folder)
    spans = _shares(plan.blocks, nodes)
    return Job(plan.name, "graph", folder, spans, (), kwargs, lambda: whole(**kwargs))


def model_folder(model: str) -> Path:
    """Where a model's own files are (tokenizer, labels): `shardline cut` keeps copies of them."""
    kept = Path(model).expanduser()
    return kept if is_graph(kept) else resolve(model)


def taken(model: str, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of what a tokenizer or a processor made, that which the model takes.

    A cut graph knows the inputs of its example only. Some that are all zeros (token types of a
    single text) say nothing, and may be left out.
    """
    kept = Path(model).expanduser()
    if not is_graph(kept):
        return dict(inputs)
    asked = open_graph(kept).signature().asked()
    return {name: value for name, value in inputs.items() if name in asked or bool(value.any())}


def served_job(model: str, kwargs: dict[str, Any], nodes: int | None, folder: Path) -> Job:
    """A call of what a person names: a checkpoint, or a folder that `shardline cut` made of one."""
    kept = Path(model).expanduser()
    if not is_graph(kept):
        return _model_job(resolve(model), kwargs, nodes or NODES, folder)
    plan = open_graph(kept)
    spans = _shares(plan.blocks, nodes or plan.blocks)
    return Job(plan.name, "graph", kept, spans, (), kwargs, lambda: None)


def _model_inputs(model: Path, inputs: Path | None) -> dict[str, Any]:
    """A model's own keyword arguments; raises BadInput for some that its forward does not know."""
    if inputs is None:
        return dict(example_of(model))
    given = plain_tensors(read_arrays(inputs))
    kind = model_class(model_config(model))
    takes = inspect.signature(cast("Any", kind).forward).parameters
    extra = [name for name in given if name not in takes]
    if extra or not given:
        known = ", ".join(name for name in takes if name not in {"self", "kwargs"})
        raise BadInput(
            f"{inputs} has {', '.join(extra) or 'nothing'}: {kind.__name__} takes {known}"
        )
    return given


def _read(signature: Signature, inputs: Path) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return signature.call(tensors_for(signature.name, signature.asked(), inputs))


def _shares(blocks: int, nodes: int) -> tuple[Span, ...]:
    """Blocks on so many nodes, as even as whole blocks allow; raises BadInput for too many."""
    if nodes > blocks:
        raise BadInput(f"{blocks} blocks cannot be held by {nodes} nodes: give --nodes {blocks}")
    cuts = [at * blocks // nodes for at in range(nodes + 1)]
    return tuple(Span(start, stop) for start, stop in pairwise(cuts))
