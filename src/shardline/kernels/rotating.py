"""Rotary positions of queries and keys in bfloat16, in one go with torch's bits.

Each half of a head's numbers is turned with the other: x * cos + rotated(x) * sin, every product
and the sum rounded, as the eight operations of torch's round them.
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

__all__ = ["rotated", "source"]

LANES: Final = 8
AXES: Final = 4
"""Rows, heads, tokens, width."""
SIDES: Final = 3

TURN: Final = """
; One half: times the cosines, and the other half, or what that lacks to 0, times the sines.
define internal void @half(ptr %mine, ptr %other, ptr %cos, ptr %sin, ptr %to, i1 %less)
    alwaysinline {{
  %x = call <{n} x float> @read.{n}(ptr %mine)
  %y = call <{n} x float> @read.{n}(ptr %other)
  %c = call <{n} x float> @read.{n}(ptr %cos)
  %s = call <{n} x float> @read.{n}(ptr %sin)
  %y.less = fneg <{n} x float> %y
  %y.turned = select i1 %less, <{n} x float> %y.less, <{n} x float> %y
  %xc = fmul <{n} x float> %x, %c
  %ys = fmul <{n} x float> %y.turned, %s
  %xc.short = call <{n} x i16> @rounded.{n}(<{n} x float> %xc)
  %ys.short = call <{n} x i16> @rounded.{n}(<{n} x float> %ys)
  %xc.long = call <{n} x float> @long.{n}(<{n} x i16> %xc.short)
  %ys.long = call <{n} x float> @long.{n}(<{n} x i16> %ys.short)
  %sum = fadd <{n} x float> %xc.long, %ys.long
  %short = call <{n} x i16> @rounded.{n}(<{n} x float> %sum)
  store <{n} x i16> %short, ptr %to, align 2
  ret void
}}

define internal void @some(ptr %turn, i64 %first, i64 %stop) {{
begin:
{loads}
  %half = lshr i64 %width, 1
  %token.size = mul i64 %heads, %width
  br label %token
token:
  %t = phi i64 [ %first, %begin ], [ %t.next, %token.done ]
  %open = icmp ult i64 %t, %stop
  br i1 %open, label %place, label %done
place:
  %offset = mul i64 %t, %token.size
  %which = urem i64 %t, %period
  %beside = mul i64 %which, %width
  br label %head
head:
  %h = phi i64 [ 0, %place ], [ %h.next, %head.done ]
  %h.offset = mul i64 %h, %width
  %start = add i64 %offset, %h.offset
  br label %part
part:
  %i = phi i64 [ 0, %head ], [ %i.next, %part ]
  %j = add i64 %i, %half
  %at.1 = add i64 %start, %i
  %at.2 = add i64 %start, %j
  %beside.1 = add i64 %beside, %i
  %beside.2 = add i64 %beside, %j
  %x.1 = getelementptr i16, ptr %x, i64 %at.1
  %x.2 = getelementptr i16, ptr %x, i64 %at.2
  %out.1 = getelementptr i16, ptr %out, i64 %at.1
  %out.2 = getelementptr i16, ptr %out, i64 %at.2
  %cos.1 = getelementptr i16, ptr %cos, i64 %beside.1
  %cos.2 = getelementptr i16, ptr %cos, i64 %beside.2
  %sin.1 = getelementptr i16, ptr %sin, i64 %beside.1
  %sin.2 = getelementptr i16, ptr %sin, i64 %beside.2
  call void @half(ptr %x.1, ptr %x.2, ptr %cos.1, ptr %sin.1, ptr %out.1, i1 true)
  call void @half(ptr %x.2, ptr %x.1, ptr %cos.2, ptr %sin.2, ptr %out.2, i1 false)
  %i.next = add i64 %i, {n}
  %on = icmp ult i64 %i.next, %half
  br i1 %on, label %part, label %head.done
head.done:
  %h.next = add i64 %h, 1
  %more = icmp ult i64 %h.next, %heads
  br i1 %more, label %head, label %token.done
token.done:
  %t.next = add i64 %t, 1
  br label %token
done:
  ret void
}}

define void @rotated(ptr %queries, ptr %keys, ptr %cos, ptr %sin, ptr %to, ptr %to.keys,
    i64 %heads, i64 %shared, i64 %width, i64 %period, i64 %count, i32 %threads) {{
  call void @turned(ptr %queries, ptr %cos, ptr %sin, ptr %to, i64 %heads, i64 %width,
    i64 %period, i64 %count, i32 %threads)
  call void @turned(ptr %keys, ptr %cos, ptr %sin, ptr %to.keys, i64 %shared, i64 %width,
    i64 %period, i64 %count, i32 %threads)
  ret void
}}
"""

FIELDS: Final = typed(ptr="x cos sin out", i64="heads width period")
"""Heads' numbers, cosines and sines of their tokens, where the result goes; heads of a token,
numbers of a head, tokens that have cosines of their own."""


def source() -> str:
    """The whole module: `rotated`."""
    turn = TURN.format(n=LANES, loads=loads("turn", FIELDS))
    asked = asking("turned", "turn", "some", FIELDS, seen=False)
    return "".join([SPREAD, short(LANES), rounded(LANES), asked, turn])


@functools.cache
def _rotated() -> Callable[..., None] | None:
    engine = engine_of(source())
    if engine is None:
        return None
    return engine.function(
        "rotated", None, *6 * [ctypes.c_void_p], *5 * [ctypes.c_int64], ctypes.c_int
    )


def rotated(
    queries: torch.Tensor, keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Both (rows, heads, tokens, width), lying as a layer gives them; a token's bits are its own.

    Cosines and sines are (1 or rows, tokens, width). None of what is otherwise, or not in bfloat16.
    """
    function, size = _rotated(), cos.shape
    alike = queries.dtype is keys.dtype is cos.dtype is sin.dtype is torch.bfloat16
    if function is None or not alike or len(size) != SIDES or sin.shape != size:
        return None
    heads, shared = _heads(queries, size), _heads(keys, size)
    here = all(one.is_cpu for one in (queries, keys, cos, sin))
    here = here and cos.is_contiguous() and sin.is_contiguous()
    if not heads or not shared or not here:
        return None
    found = torch.empty_like(queries), torch.empty_like(keys)
    places = queries.data_ptr(), keys.data_ptr(), cos.data_ptr(), sin.data_ptr()
    targets = found[0].data_ptr(), found[1].data_ptr()
    rows, (own, tokens, width) = len(queries), size
    count = rows * tokens
    threads = 1 if count * heads * width < GRAIN else torch.get_num_threads()
    call(function, *places, *targets, heads, shared, width, own * tokens, count, threads)
    return found


def _heads(x: torch.Tensor, sides: torch.Size) -> int:
    """How many there are of tokens with such cosines; 0 where they lie otherwise."""
    size = x.shape
    if len(size) != AXES:
        return 0
    rows, heads, tokens, width = size
    lies = x.stride() == (tokens * heads * width, width, heads * width, 1)
    fits = sides[1] == tokens and sides[2] == width and sides[0] in {1, rows}
    return heads if lies and fits and width % (2 * LANES) == 0 and rows * tokens * width else 0
