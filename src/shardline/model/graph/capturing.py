"""Any `nn.Module` with example inputs as a graph of ops (the graph route of the paper's section 2).

torch traces the module's own forward once, on shapes alone (`torch.export`, not strict: plain
Python runs). The first two sizes of each input, mostly batch and sequence, stay open where the
model's code allows it. The module is looked at as in evaluation: no dropout, no gradients.
"""

from __future__ import annotations

import contextlib
import io
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import torch
from torch import nn
from torch.fx.experimental import _config as symbolic_config
from torch.utils import _pytree as pytree

from shardline.core.errors import BadInput
from shardline.model.graph.blame import not_capturable
from shardline.model.graph.ops import changes_inputs
from shardline.model.graph.program import Program, Ref, Value
from shardline.model.graph.reading import read
from shardline.model.graph.signature import Signature, leaves_of
from shardline.model.graph.sizes import NoRule, rules_of, value_of
from shardline.model.graph.trying import without_needless
from shardline.model.library import quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from torch.export import ExportedProgram

    from shardline.model.graph.reading import Read

__all__ = ["Graph", "capture", "silent"]

_symbolic: Any = symbolic_config
Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""

OPEN: Final = 2
"""So many of each input's sizes may stay open."""
_FAULTS: Final = (
    RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError,
    ArithmeticError, OSError, ImportError,
)  # fmt: skip
"""What a person's forward, run by torch on shapes, may raise."""


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A captured module: its ops, its tensors, and how it is called."""

    program: Program
    signature: Signature
    tensors: dict[str, torch.Tensor]
    seen: Mapping[str, Any]
    """Each value in the example, as torch's fake tensor or number."""
    sizes: tuple[str, ...]
    """Sizes of inputs that may change from call to call, such as `input_ids.1`."""
    why_fixed: str
    """Why no size may change although they were asked to; empty otherwise."""
    unflatten: Callable[[list[Any]], Any]
    """The module's own output of its leaves: of its own types, only in this process."""

    def rebuild(self, values: Mapping[str, Any]) -> Any:  # noqa: ANN401 - whatever it returns
        """What the module returns, of the types that it returns."""
        return self.unflatten(self.signature.leaves(values))


def capture(
    module: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic: bool = True,
) -> Graph:
    """The module as a graph, from one example of its inputs; its weights are shared, not copied.

    Raises BadInput if the module fails on its inputs; Unsupported, naming the line and two ways
    out, if it cannot be captured.
    """
    kwargs = dict(kwargs or {})
    with _evaluating(module), torch.no_grad(), quiet():
        why = ""
        for example in _examples(args, kwargs) if dynamic else ():
            try:
                graph = _captured(module, *example, open_sizes=True)
                graph.signature.bind(*args, **kwargs)
            except (BadInput, NoRule, *_FAULTS) as error:
                why = str(error).strip().partition("\n")[0]
            else:
                return graph
        try:
            return _captured(module, args, kwargs, open_sizes=False, why=why)
        except (NoRule, *_FAULTS) as error:
            _check_runs(module, args, kwargs)
            raise not_capturable(module, error) from error


def _examples(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Inputs]:
    """The inputs; before them, if they are a batch of one, the same twice: one is often special."""
    leaves: list[Any] = pytree.tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if not tensors or any(leaf.dim() == 0 or len(leaf) != 1 for leaf in tensors):
        return [(args, kwargs)]

    def twice(leaf: Any) -> Any:  # noqa: ANN401 - whatever the module takes
        return torch.cat([leaf, leaf]) if isinstance(leaf, torch.Tensor) else leaf

    return [cast("Inputs", pytree.tree_map(twice, (args, kwargs))), (args, kwargs)]


def _captured(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    open_sizes: bool,
    why: str = "",
) -> Graph:
    exported = _export(module, args, kwargs, open_sizes=open_sizes)
    found = read(module, exported)
    rules = rules_of(exported, found.seen, found.given)
    inputs = [value_of(name, found.seen[name]) for name in found.given]
    signature = Signature(type(module).__name__, found.inputs, found.outputs, inputs, rules)
    sizes = signature.sizes()
    read_sizes = [value_of(name, found.seen[name]) for name in sizes if name in found.seen]
    program = Program(found.ops, [*inputs, *read_sizes], _outputs(found), found.aliases)
    program.check()
    kept = without_needless(module, (args, kwargs), signature, program, found.tensors)
    signature = msgspec.structs.replace(signature, rules=kept)
    spec: Any = exported.call_spec.out_spec

    def unflatten(leaves: list[Any]) -> Any:  # noqa: ANN401 - whatever it returns
        return pytree.tree_unflatten(leaves, spec)

    return Graph(program, signature, found.tensors, found.seen, sizes, why, unflatten)


def _outputs(found: Read) -> list[Value]:
    """What the ops give back of what the module returns; it may return its inputs too."""
    names = [leaf.name for leaf in leaves_of(found.outputs) if isinstance(leaf, Ref)]
    made = {op.name for op in found.ops} | set(found.aliases)
    return [value_of(name, found.seen[name]) for name in dict.fromkeys(names) if name in made]


def _export(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, open_sizes: bool
) -> ExportedProgram:
    shapes: Any = torch.export.ShapesCollection()
    for leaf in pytree.tree_leaves((args, kwargs)):
        if isinstance(leaf, torch.Tensor):
            auto: Any = torch.export.Dim.AUTO
            shapes[leaf] = dict.fromkeys(range(min(OPEN, leaf.dim())), auto)
    # Without the patch, torch takes for granted that an open size is not 1, and says it nowhere.
    with silent(), _symbolic.patch(backed_size_oblivious=open_sizes):
        exported: Any = torch.export.export(
            module, args, kwargs, strict=False, dynamic_shapes=shapes if open_sizes else None
        )
        return exported.run_decompositions({}) if _needs_it(exported) else exported


def _needs_it(exported: ExportedProgram) -> bool:
    """Whether ops change what they are given, or hold graphs of their own: torch rewrites these."""
    targets: list[Any] = [node.target for node in exported.graph.nodes]
    return any(
        changes_inputs(target) or getattr(target, "namespace", "") == "higher_order"
        for target in targets
    )


def _check_runs(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise BadInput if it is not the capturing that fails, but the module."""
    try:
        module(*args, **kwargs)
    except _FAULTS as error:
        said = str(error).strip().partition("\n")[0]
        name = type(module).__name__
        raise BadInput(f"{name} fails on these inputs: {type(error).__name__}: {said}") from error


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Generator[None]:
    """Every part in evaluation mode inside, as it was after it."""
    training = [part for part in cast("Any", module).modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextlib.contextmanager
def silent() -> Generator[None]:
    """Without torch's log and the graphs that it prints when tracing fails."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
