"""Gates of a feed-forward block in bfloat16, act(gate) * up, in one go with torch's bits.

There are 65,536 numbers in bfloat16, so a function of one is a table, which torch's own fills: few
of its lines are ever asked for, and these stay in the cache. Both roundings are torch's too.
"""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING, Final

import torch

from shardline.kernels.calling import call
from shardline.kernels.compiling import engine_of
from shardline.kernels.rounding import rounded, short
from shardline.kernels.spreading import GRAIN, SPREAD, asking, loads, typed

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["can_gate", "gated", "source", "table_of"]

NUMBERS: Final = 2**16
LANES: Final = 16

GATE: Final = """
define internal i16 @looked.up(ptr %table, i16 %number) alwaysinline {{
  %at = zext i16 %number to i64
  %place = getelementptr i16, ptr %table, i64 %at
  %found = load i16, ptr %place, align 2
  ret i16 %found
}}

define internal void @some(ptr %gate, i64 %first, i64 %stop) {{
begin:
{loads}
  br label %look
look:
  %i = phi i64 [ %first, %begin ], [ %i.next, %many ]
  %i.next = add i64 %i, {lanes}
  %whole = icmp ule i64 %i.next, %stop
  br i1 %whole, label %many, label %rest
many:
  %many.gate = getelementptr i16, ptr %gates, i64 %i
  %many.up = getelementptr i16, ptr %ups, i64 %i
  %many.out = getelementptr i16, ptr %out, i64 %i
  %gate.all = load <{lanes} x i16>, ptr %many.gate, align 2
{found}
  %acted = call <{lanes} x float> @long.{lanes}(<{lanes} x i16> %found.{last})
  %up = call <{lanes} x float> @read.{lanes}(ptr %many.up)
  %product = fmul <{lanes} x float> %acted, %up
  %short = call <{lanes} x i16> @rounded.{lanes}(<{lanes} x float> %product)
  store <{lanes} x i16> %short, ptr %many.out, align 2
  br label %look
rest:
  %j = phi i64 [ %i, %look ], [ %j.next, %one ]
  %more = icmp ult i64 %j, %stop
  br i1 %more, label %one, label %done
one:
  %one.gate = getelementptr i16, ptr %gates, i64 %j
  %one.up = getelementptr i16, ptr %ups, i64 %j
  %one.out = getelementptr i16, ptr %out, i64 %j
  %number = load i16, ptr %one.gate, align 2
  %one.found = call i16 @looked.up(ptr %table, i16 %number)
  %one.vector = insertelement <1 x i16> poison, i16 %one.found, i64 0
  %one.acted = call <1 x float> @long.1(<1 x i16> %one.vector)
  %one.x = call <1 x float> @read.1(ptr %one.up)
  %one.product = fmul <1 x float> %one.acted, %one.x
  %one.short = call <1 x i16> @rounded.1(<1 x float> %one.product)
  store <1 x i16> %one.short, ptr %one.out, align 2
  %j.next = add i64 %j, 1
  br label %rest
done:
  ret void
}}
"""

FIELDS: Final = typed(ptr="gates ups table out")
"""Gates, what they let through, the function's table, where the result goes."""


def source() -> str:
    """The whole module: `gated`."""
    found = [
        f"""  %number.{lane} = extractelement <{LANES} x i16> %gate.all, i64 {lane}
  %one.{lane} = call i16 @looked.up(ptr %table, i16 %number.{lane})
  %found.{lane} = insertelement <{LANES} x i16> {before}, i16 %one.{lane}, i64 {lane}"""
        for lane in range(LANES)
        for before in [f"%found.{lane - 1}" if lane else "poison"]
    ]
    gate = GATE.format(
        loads=loads("gate", FIELDS), found="\n".join(found), lanes=LANES, last=LANES - 1
    )
    parts = [part(lanes) for lanes in (1, LANES) for part in (short, rounded)]
    return "".join([SPREAD, *parts, asking("gated", "gate", "some", FIELDS), gate])


@functools.cache
def _gated() -> Callable[..., None] | None:
    engine = engine_of(source())
    if engine is None:
        return None
    return engine.function("gated", None, *4 * [ctypes.c_void_p], ctypes.c_int64, ctypes.c_int)


def can_gate() -> bool:
    """Whether this processor is one that the text is for."""
    return _gated() is not None


@functools.cache
def table_of(function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """What a function of single numbers makes of each in bfloat16."""
    numbers = torch.arange(NUMBERS, dtype=torch.int32).to(torch.int16)
    with torch.no_grad():
        return function(numbers.view(torch.bfloat16)).contiguous()


def gated(gates: torch.Tensor, ups: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Table of `gates`, times `ups`, in place of the gates where these lie in one piece.

    Both are of one shape, in bfloat16 on the CPU; raises ValueError.
    """
    function = _gated()
    if function is None or gates.shape != ups.shape:
        raise ValueError(f"gates of {tuple(gates.shape)} for {tuple(ups.shape)}")
    gates, ups = gates.contiguous(), ups.contiguous()
    at, count = gates.data_ptr(), gates.numel()
    threads = 1 if count < GRAIN else torch.get_num_threads()
    call(function, at, ups.data_ptr(), table.data_ptr(), at, count, threads)
    return gates
