"""Sums in bfloat16 with torch's bits, for work that is done again: torch's own takes longer to ask.

After weights of a block went through the processor's caches, little is left there of torch's code.
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

__all__ = ["added", "can_add", "source"]

LANES: Final = 16

SOME: Final = """
define internal void @some(ptr %sum, i64 %first, i64 %stop) {{
begin:
{loads}
  br label %look
look:
  %i = phi i64 [ %first, %begin ], [ %i.next, %many ]
  %i.next = add i64 %i, {lanes}
  %whole = icmp ule i64 %i.next, %stop
  br i1 %whole, label %many, label %rest
rest:
  %j = phi i64 [ %i, %look ], [ %j.next, %one ]
  %more = icmp ult i64 %j, %stop
  br i1 %more, label %one, label %done
{many}
{one}
done:
  ret void
}}
"""

ADD: Final = """
{label}:
  %{label}.a = getelementptr i16, ptr %a, i64 %{at}
  %{label}.b = getelementptr i16, ptr %b, i64 %{at}
  %{label}.out = getelementptr i16, ptr %out, i64 %{at}
  %{label}.x = call <{n} x float> @read.{n}(ptr %{label}.a)
  %{label}.y = call <{n} x float> @read.{n}(ptr %{label}.b)
  %{label}.sum = fadd <{n} x float> %{label}.x, %{label}.y
  %{label}.short = call <{n} x i16> @rounded.{n}(<{n} x float> %{label}.sum)
  store <{n} x i16> %{label}.short, ptr %{label}.out, align 2
  {step}
  br label %{after}
"""

FIELDS: Final = typed(ptr="a b out")
"""What is added, and where the sums go."""


def source() -> str:
    """The whole module: `added`."""
    many = ADD.format(label="many", at="i", n=LANES, step="", after="look")
    one = ADD.format(label="one", at="j", n=1, step="%j.next = add i64 %j, 1", after="rest")
    some = SOME.format(loads=loads("sum", FIELDS), lanes=LANES, many=many, one=one)
    parts = [part(lanes) for lanes in (1, LANES) for part in (short, rounded)]
    return "".join([SPREAD, *parts, asking("added", "sum", "some", FIELDS), some])


@functools.cache
def _added() -> Callable[..., None] | None:
    engine = engine_of(source())
    if engine is None:
        return None
    return engine.function("added", None, *3 * [ctypes.c_void_p], ctypes.c_int64, ctypes.c_int)


def can_add(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether there is a kernel for these, of one shape and each in one piece, on this machine."""
    return (
        a.dtype is b.dtype is torch.bfloat16
        and a.is_cpu
        and b.is_cpu
        and a.shape == b.shape
        and a.is_contiguous()
        and b.is_contiguous()
        and _added() is not None
    )


def added(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Sums of what `can_add` took, into one of the same kind; raises ValueError."""
    function = _added()
    if function is None or not can_add(a, b) or not can_add(a, out):
        raise ValueError(f"{a.dtype} of {tuple(a.shape)} to {tuple(b.shape)}")
    count = a.numel()
    threads = 1 if count < GRAIN else torch.get_num_threads()
    call(function, a.data_ptr(), b.data_ptr(), out.data_ptr(), count, threads)
    return out
