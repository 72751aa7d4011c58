"""Modules of Transformers whose small operations are done in one go, with the same bits.

A module is known by the text of its class's forward, which Transformers copies from model to model:
RMSNorm in three kinds, and the gate of a feed-forward block. Everything else of the module stays;
what is not bfloat16 on the CPU, and whatever needs gradients, goes its own way.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

import torch
from torch import nn
from transformers.activations import GELUTanh, SiLUActivation

from shardline.kernels import can_gate, can_normalise, gated, normalised, table_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["fuse"]

ACTIVATIONS: Final = (SiLUActivation, nn.SiLU, GELUTanh)
"""Functions of one number, without settings."""
_BF16: Final = torch.bfloat16

_SQUARES: Final = """
    input_dtype = x.dtype
    x = x.to(torch.float32)
    variance = x.pow(2).mean(-1, keepdim=True)
    x = x * torch.rsqrt(variance + self.variance_epsilon)
"""
_T5: Final = """
    variance = x.to(torch.float32).pow(2).mean(-1, keepdim=True)
    x = x * torch.rsqrt(variance + self.variance_epsilon)
    if self.weight.dtype in [torch.float16, torch.bfloat16]:
        x = x.to(self.weight.dtype)
    return self.weight * x
"""
_GEMMA: Final = """
    output = self._norm(x.float())
    output = output * (1.0 + self.weight.float())
    return output.type_as(x)
"""
_GEMMA_NORM: Final = "return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)"
_MLP: Final = """
    down_proj = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
    return down_proj
"""
_MLP_SHORT: Final = "return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))"


class _Normalised(nn.Module):
    """An RMSNorm."""

    way: ClassVar[str] = "twice"
    epsilon: ClassVar[str] = "variance_epsilon"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As its own class's."""
        weight = cast("torch.Tensor", self.weight)
        alike = x.dtype is _BF16 is weight.dtype and x.is_cpu and weight.is_cpu
        if alike and not torch.is_grad_enabled():
            return normalised(x, weight, getattr(self, self.epsilon), self.way)
        return cast("Any", super()).forward(x)


class _Once(_Normalised):
    """One that rounds once, at its end."""

    way = "once"


class _BeyondOne(_Normalised):
    """One whose weights are what is beyond 1."""

    way, epsilon = "beyond_one", "eps"


class _Gated(nn.Module):
    """A feed-forward block with a gate."""

    table: ClassVar[torch.Tensor]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As its own class's."""
        own = cast("Any", self)
        gates, ups = own.gate_proj(x), own.up_proj(x)
        alike = gates.dtype is _BF16 is ups.dtype and gates.is_cpu
        if alike and not torch.is_grad_enabled():
            return own.down_proj(gated(gates, ups, self.table))
        return own.down_proj(own.act_fn(gates) * ups)


def fuse(model: nn.Module) -> None:
    """Let its modules that are known do it in one go, in place."""
    for module in model.modules():
        norm, typeless = _norm(type(module)), cast("Any", module)
        if norm is not None and can_normalise(typeless.weight):
            typeless.__class__ = _joined(type(module), norm)
        elif _is_gate(type(module)) and can_gate():
            activation = cast("type[nn.Module]", type(typeless.act_fn))
            if activation in ACTIVATIONS:
                typeless.__class__ = _joined(type(module), _gate(activation))


@functools.cache
def _joined(own: type[nn.Module], fused: type[nn.Module]) -> type[nn.Module]:
    """The class, under its own name, with the other's forward before its own."""
    names = {"__module__": own.__module__, "__qualname__": own.__qualname__}
    return type(own.__name__, (fused, own), names)


@functools.cache
def _gate(activation: type[nn.Module]) -> type[nn.Module]:
    return type("_GatedBy", (_Gated,), {"table": table_of(activation())})


@functools.cache
def _norm(own: type[nn.Module]) -> type[nn.Module] | None:
    """What stands for a class of RMSNorm; None if it is none that is known."""
    helper = getattr(own, "_norm", None)
    known: dict[tuple[str | None, str | None], type[nn.Module]] = {
        (_known(f"{_SQUARES}    return self.weight * x.to(input_dtype)"), None): _Normalised,
        (_known(_T5), None): _Normalised,
        (_known(f"{_SQUARES}    return (self.weight * x).to(input_dtype)"), None): _Once,
        (_known(_GEMMA), _known(_GEMMA_NORM)): _BeyondOne,
    }
    return known.get((_text(own.forward), None if helper is None else _text(helper)))


@functools.cache
def _is_gate(own: type[nn.Module]) -> bool:
    return _text(own.forward) in {_known(_MLP), _known(_MLP_SHORT)}


def _known(body: str) -> str:
    return _plain(f"def forward(self, x):\n{textwrap.indent(textwrap.dedent(body), '    ')}")


def _text(method: Callable[..., Any]) -> str | None:
    """What a method of `x` does; None where nobody can read it."""
    try:
        return _plain(textwrap.dedent(inspect.getsource(method)))
    except (OSError, TypeError, SyntaxError):
        return None


def _plain(source: str) -> str:
    """Without types and documentation, its name and that of what it takes."""
    method = ast.parse(source).body[0]
    if not isinstance(method, ast.FunctionDef) or len(method.args.args) != len(("self", "x")):
        return source
    taken, method.name = method.args.args[1].arg, "forward"
    method.returns = None
    for argument in method.args.args:
        argument.annotation = None
    for node in ast.walk(method):
        if isinstance(node, ast.Name) and node.id == taken:
            node.id = "x"
    method.args.args[1].arg = "x"
    if isinstance(method.body[0], ast.Expr) and isinstance(method.body[0].value, ast.Constant):
        del method.body[0]
    return ast.unparse(method)
