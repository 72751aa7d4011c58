"""A module whose named parts are on the swarm, while the rest of its code runs here.

It is the way out for a module that cannot be captured whole: its forward decides by values, or
keeps a state, between parts that do not. Its parts are graphs, each captured on its own.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from shardline.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from shardline.client.graph import SwarmGraph
    from shardline.model import Graph

__all__ = ["Call", "calls_of", "on_swarm"]


@dataclass(frozen=True, slots=True)
class Call:
    """How a part was called first."""

    part: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _Part(nn.Module):
    """Stands where a part was, and asks the swarm."""

    def __init__(self, graph: Graph, model: SwarmGraph) -> None:
        super().__init__()
        self._graph, self._model = graph, model

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  (what the part returns)
        return self._graph.rebuild(self._model.values(*args, **kwargs))


def calls_of(
    module: nn.Module, names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Call]:
    """Run a module once, in evaluation, and write down how each of these parts is called.

    Names are paths such as `encoder.layers.3`. Raises BadInput for one that is no part, is in
    another one, or is not called.
    """
    parts = {name: _part(module, name) for name in names}
    for name in parts:
        if any(name != other and name.startswith(f"{other}.") for other in parts):
            raise BadInput(f"part {name} is in another part that is named")
    seen: dict[str, Call] = {}

    def watch(name: str) -> Any:  # noqa: ANN401  (torch's handle)
        def note(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.setdefault(name, Call(part, args, kwargs))

        return cast("Any", parts[name]).register_forward_pre_hook(note, with_kwargs=True)

    with contextlib.ExitStack() as stack:
        for name in parts:
            stack.callback(watch(name).remove)
        with torch.no_grad():
            cast("Any", module.eval())(*args, **kwargs)
    quiet = [name for name in parts if name not in seen]
    if quiet:
        raise BadInput(f"part {quiet[0]} is not called: name one that is, or its own parts")
    return seen


@contextlib.contextmanager
def on_swarm(
    module: nn.Module, parts: Mapping[str, tuple[Graph, SwarmGraph]]
) -> Generator[nn.Module]:
    """The module with these parts on the swarm; afterwards as it was."""
    before = {name: _part(module, name) for name in parts}
    try:
        for name, (graph, model) in parts.items():
            module.set_submodule(name, _Part(graph, model))
        yield module
    finally:
        for name, part in before.items():
            module.set_submodule(name, part)


def _part(module: nn.Module, name: str) -> nn.Module:
    try:
        return module.get_submodule(name)
    except AttributeError:
        above = name.rpartition(".")[0]
        there = module if not above else None
        with contextlib.suppress(AttributeError):
            there = module.get_submodule(above)
        known = ", ".join(found for found, _ in (there or module).named_children()) or "none"
        raise BadInput(f"there is no part {name}: parts there are {known}") from None
