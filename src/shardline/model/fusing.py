"""Modules of Transformers whose small operations are done in one go, with the same bits.

A module is known by the text of its class's forward, which Transformers copies from model to model:
RMSNorm in three kinds, and the gate of a feed-forward block; an attention, by that of its module's
rotary positions. Everything else of a module stays; what is not bfloat16 on the CPU, and whatever
needs gradients, goes its own way.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

import torch
from torch import nn
from transformers.activations import GELUTanh, SiLUActivation

from shardline.kernels import can_gate, can_normalise, gated, normalised, rotated, table_of

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
_ROTARY_NAME: Final = "apply_rotary_pos_emb"
_ROTARY: Final = """
def apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=1):
    cos = cos.unsqueeze(unsqueeze_dim)
    sin = sin.unsqueeze(unsqueeze_dim)
    q_embed = (q * cos) + (rotate_half(q) * sin)
    k_embed = (k * cos) + (rotate_half(k) * sin)
    return q_embed, k_embed
"""
_ROTATE: Final = """
def rotate_half(x):
    x1 = x[..., : x.shape[-1] // 2]
    x2 = x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)
"""


class _Normalised(nn.Module):
    """An RMSNorm."""

    way: ClassVar[str] = "twice"
    epsilon: ClassVar[str] = "variance_epsilon"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As its own class's."""
        if not torch.is_grad_enabled():
            weight = cast("torch.Tensor", self._parameters["weight"])
            found = normalised(x, weight, getattr(self, self.epsilon), self.way)
            if found is not None:
                return found
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
        elif (rotating := _rotating(type(module))) is not None:
            typeless.__class__ = rotating


@functools.cache
def _joined(own: type[nn.Module], fused: type[nn.Module]) -> type[nn.Module]:
    """The class, under its own name, with the other's forward before its own."""
    return type(own.__name__, (fused, own), _names(own))


def _names(own: type[nn.Module]) -> dict[str, Any]:
    return {"__module__": own.__module__, "__qualname__": own.__qualname__}


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


@functools.cache
def _rotating(own: type[nn.Module]) -> type[nn.Module] | None:
    """An attention's class whose forward finds our function where it finds its module's own."""
    forward: Any = own.forward
    turn = getattr(forward, "__globals__", {}).get(_ROTARY_NAME)
    if not isinstance(turn, FunctionType) or _ROTARY_NAME not in forward.__code__.co_names:
        return None
    half = turn.__globals__.get("rotate_half")
    if _text(turn) != _plain(_ROTARY) or half is None or _text(half) != _plain(_ROTATE):
        return None
    seen = {**forward.__globals__, _ROTARY_NAME: functools.partial(_rotary, turn)}
    ours = FunctionType(
        forward.__code__, seen, forward.__name__, forward.__defaults__, forward.__closure__
    )
    ours.__kwdefaults__ = forward.__kwdefaults__
    return type(own.__name__, (own,), {"forward": ours, **_names(own)})


def _rotary(
    own: Callable[..., tuple[torch.Tensor, torch.Tensor]], *inputs: Any, **options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """As a module's own; inputs are queries, keys, cosines and sines."""
    if len(inputs) == len("qkcs") and not options and not torch.is_grad_enabled():
        found = rotated(*inputs)
        if found is not None:
            return found
    return own(*inputs, **options)


def _known(body: str) -> str:
    return _plain(f"def forward(self, x):\n{textwrap.indent(textwrap.dedent(body), '    ')}")


def _text(function: Callable[..., Any]) -> str | None:
    """What a function does; None where nobody can read it."""
    try:
        return _plain(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None


def _plain(source: str) -> str:
    """Without types and documentation; a method takes `x`, whatever its name for it."""
    function = ast.parse(source).body[0]
    if not isinstance(function, ast.FunctionDef):
        return source
    function.returns = None
    arguments = function.args.args
    for argument in arguments:
        argument.annotation = None
    if len(arguments) == len(("self", "x")):
        taken, function.name = arguments[1].arg, "forward"
        names = (node for node in ast.walk(function) if isinstance(node, ast.Name))
        for name in names:
            name.id = "x" if name.id == taken else name.id
        arguments[1].arg = "x"
    else:  # what is written above a module's function does nothing without Transformers' `kernels`
        function.decorator_list = []
    if isinstance(function.body[0], ast.Expr) and isinstance(function.body[0].value, ast.Constant):
        del function.body[0]
    return ast.unparse(function)
