"""What a model's modules hand to each other, seen in one forward on shapes.

A list of modules is a chain if each is given the very tensor that the one before it returned. That
what they return is used nowhere else is tried in a second forward, in which nobody may read it.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers.cache_utils import Cache

from shardline.model.chain import Joint, Place
from shardline.model.crossing import CACHE, carried_marker
from shardline.model.trees import Leaf, Path, Tree, get, leaves, map_leaves

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator, Sequence

__all__ = ["Called", "Watch", "joints_of", "lists_of", "read_elsewhere"]

Lists = dict[str, list[nn.Module]]
"""Lists of modules by their dotted names."""


@dataclass(slots=True)
class Called:
    """One call of one module; the tensors are kept, so that identities stay unique."""

    at: int
    """Which call of all it was."""
    inputs: tuple[tuple[Any, ...], dict[str, Any]]
    output: Tree = None


class Watch:
    """Notes every call of some modules in the last forward of their model while it is open."""

    def __init__(self, model: nn.Module, modules: set[nn.Module]) -> None:
        self._model = model
        self.calls: dict[nn.Module, list[Called]] = {module: [] for module in modules}
        self._at = itertools.count()

    @contextlib.contextmanager
    def open(self) -> Generator[None]:
        """Note what is called."""
        hooks = [self._model.register_forward_pre_hook(self._begin)]
        hooks += [m.register_forward_pre_hook(self._before, with_kwargs=True) for m in self.calls]
        hooks += [m.register_forward_hook(self._after) for m in self.calls]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _begin(self, _model: nn.Module, _args: Tree) -> None:
        for calls in self.calls.values():
            calls.clear()

    def _before(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.calls[block].append(Called(next(self._at), (args, kwargs)))

    def _after(self, block: nn.Module, _args: Tree, output: Tree) -> None:
        self.calls[block][-1].output = output

    @property
    def cache(self) -> Cache | None:
        """The first cache that a module was given."""
        given = (leaves(call.inputs) for calls in self.calls.values() for call in calls)
        caches = (leaf for _, leaf in itertools.chain(*given) if isinstance(leaf, Cache))
        return next(caches, None)


def lists_of(model: nn.Module) -> Lists:
    """Every list of more than one module, by its dotted name."""
    return {
        path: list(module)
        for path, module in cast("Iterator[tuple[str, nn.Module]]", model.named_modules())
        if isinstance(module, nn.ModuleList) and len(module) > 1
    }


def joints_of(calls: Sequence[list[Called]]) -> tuple[Joint, ...]:
    """How these modules hand on, by tensor identity; empty if they are no chain."""
    if len({len(called) for called in calls}) != 1 or not calls[0]:
        return ()
    links = [_links(one, two) for one, two in itertools.pairwise(calls)]
    if not all(links):
        return ()
    joints: list[Joint] = []
    for index, (first, *_) in enumerate(calls):
        taken = links[index - 1] if index else _first(first, links[0])
        given = links[index] if index < len(links) else {}
        if not taken:
            return ()
        places = tuple(Place(path, tuple(get(first.inputs, path).shape)) for path in taken)
        gives = tuple(given.values())
        joints.append(Joint(places, gives, _template(first.output, gives)))
    return tuple(joints)


def _links(one: list[Called], two: list[Called]) -> dict[Path, Path]:
    """Where a block takes what the one before gave, and where in that one's output it is."""
    common: set[tuple[Path, Path]] | None = None
    for before, after in zip(one, two, strict=True):
        given = _tensors(before.output)
        pairs = {
            (into, out)
            for into, value in _tensors(after.inputs)
            for out, other in given
            if value is other and before.at < after.at
        }
        common = pairs if common is None else common & pairs
    # One carried value per place it goes to; the first output that holds it.
    found: dict[Path, Path] = {}
    for into, out in sorted(common or (), key=str):
        found.setdefault(into, out)
    return found


def _first(call: Called, links: dict[Path, Path]) -> dict[Path, Path]:
    """What a chain's first block is handed: what the next ones are, as far as it is there yet."""
    given = {path for path, _ in _tensors(call.inputs)}
    return {path: path for path in links if path in given}


def _tensors(tree: Tree) -> list[tuple[Path, torch.Tensor]]:
    return [(path, leaf) for path, leaf in leaves(tree) if isinstance(leaf, torch.Tensor)]


def _template(output: Tree, gives: tuple[Path, ...]) -> Tree:
    def leaf(path: Path, value: Leaf) -> Leaf:
        if path in gives:
            return carried_marker(gives.index(path))
        if isinstance(value, torch.Tensor):
            return torch.empty(value.shape, dtype=value.dtype, device="meta")
        return CACHE if isinstance(value, Cache) else value

    return map_leaves(output, leaf)


class _ReadElsewhere(Exception):
    """Somebody else than the next block looked at what a block gave."""

    def __init__(self, chain: int) -> None:
        super().__init__()
        self.chain = chain


class _Sealed(torch.Tensor):
    """A block's output that may be handed on and asked for its shape, and nothing else."""

    chain: int = 0
    """Which chain's block gave it."""

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401  (as torch declares it)
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  (as torch declares it)
        if getattr(func, "__name__", "") not in {"__get__", "size", "dim", "numel", "__len__"}:
            _refuse((args, kwargs or {}))
            raise _ReadElsewhere(0)  # it is hidden in something that is no tree
        typeless: Any = super()
        return typeless.__torch_function__(func, types, args, kwargs or {})


def read_elsewhere(
    chains: Sequence[Sequence[nn.Module]], watch: Watch, run: Callable[[], Tree]
) -> int | None:
    """The chain of which anything but the next block uses what a block gives; None: there is none.

    `run` is the forward that was watched. It is run once more, in which no block runs: each gives
    what nobody may read, and a chain's last one what it gave.
    """
    chained = {block for chain in chains for block in chain}
    hooks = [
        module.register_forward_pre_hook(_refuse_inputs, with_kwargs=True)
        for module in watch.calls
        if module not in chained
    ]
    for number, chain in enumerate(chains):
        _stand_in(chain, watch, number)
    try:
        _refuse(run())
    except _ReadElsewhere as read:
        return read.chain
    else:
        return None
    finally:
        for hook in hooks:
            hook.remove()
        for block in chained:
            del block.__dict__["forward"]


def _refuse_inputs(_: nn.Module, args: Tree, kwargs: Tree) -> None:
    _refuse((args, kwargs))


def _refuse(tree: Tree, taken: Collection[Path] = ()) -> None:
    """Raise _ReadElsewhere if there is what nobody may read, but at these places."""
    for path, leaf in leaves(tree):
        if isinstance(leaf, _Sealed) and path not in taken:
            raise _ReadElsewhere(leaf.chain)


def _stand_in(chain: Sequence[nn.Module], watch: Watch, number: int) -> None:
    """Let each block give what it gave, sealed unless it is the last, for what it was handed."""
    joints = joints_of([watch.calls[block] for block in chain])
    given = [watch.calls[block][0].output for block in chain]
    outputs = [*(_sealed(output, number) for output in given[:-1]), given[-1]]

    def forward(index: int, *args: Tree, **kwargs: Tree) -> Tree:
        taken = {place.path for place in joints[index].takes} if index else set[Path]()
        _refuse((args, kwargs), taken)
        return outputs[index]

    for index, block in enumerate(chain):
        block.forward = functools.partial(forward, index)


def _sealed(output: Tree, chain: int) -> Tree:
    """The same output, of tensors that nobody may read."""

    def leaf(_: Path, value: Leaf) -> Leaf:
        if not isinstance(value, torch.Tensor):
            return value
        flat = torch.empty(value.shape, dtype=value.dtype, device="meta")
        sealed = flat.as_subclass(_Sealed)
        sealed.chain = chain
        return sealed

    return map_leaves(output, leaf)
