"""RMSNorm of rows in bfloat16 in one go, with the bits of the eight operations of torch's.

Torch adds a row's squares up as 32 sums, of every 32nd input; 16 inputs of each go to a sum of a
second level, 16 of these to a third, and so on. At the end sums of 8 are added, then these 8 in
their order. That was found by trying, and is done here in the same order.
"""

from __future__ import annotations

import ctypes
import functools
from math import prod
from typing import TYPE_CHECKING, Final

import torch

from shardline.kernels.calling import call
from shardline.kernels.compiling import engine_of
from shardline.kernels.rounding import rounded, short
from shardline.kernels.spreading import GRAIN, SPREAD, asking, loads, typed

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["WAYS", "can_normalise", "normalised", "source"]

LEAST: Final = 8
"""Inputs that torch adds at a time; rows are of whole such parts."""
MOST: Final = 2**20
"""Inputs of a row: beyond these torch adds more than 16 at a level."""

# Of a row: 1 / sqrt(mean of squares + epsilon).
SCALE: Final = """
define internal float @scale(ptr %row, i64 %width, float %eps) {
begin:
  %wholes = lshr i64 %width, 5
  %levels = alloca [3 x <32 x float>], align 64
  %second = getelementptr <32 x float>, ptr %levels, i64 1
  %third = getelementptr <32 x float>, ptr %levels, i64 2
  store <32 x float> zeroinitializer, ptr %levels
  store <32 x float> zeroinitializer, ptr %second
  store <32 x float> zeroinitializer, ptr %third
  %any = icmp ne i64 %wholes, 0
  br i1 %any, label %whole, label %summed
whole:
  %i = phi i64 [ 0, %begin ], [ %i.next, %next ]
  %sum = phi <32 x float> [ zeroinitializer, %begin ], [ %sum.next, %next ]
  %at = shl i64 %i, 5
  %place = getelementptr i16, ptr %row, i64 %at
  %x = call <32 x float> @read.32(ptr %place)
  %square = fmul <32 x float> %x, %x
  %sum.new = fadd <32 x float> %sum, %square
  %i.next = add i64 %i, 1
  %in.16 = and i64 %i.next, 15
  %full = icmp eq i64 %in.16, 0
  br i1 %full, label %up.1, label %next
up.1:
  %old.1 = load <32 x float>, ptr %levels
  %new.1 = fadd <32 x float> %old.1, %sum.new
  store <32 x float> %new.1, ptr %levels
  %in.256 = and i64 %i.next, 255
  %full.1 = icmp eq i64 %in.256, 0
  br i1 %full.1, label %up.2, label %next
up.2:
  %old.2 = load <32 x float>, ptr %second
  %new.2 = fadd <32 x float> %old.2, %new.1
  store <32 x float> zeroinitializer, ptr %levels
  store <32 x float> %new.2, ptr %second
  %in.4096 = and i64 %i.next, 4095
  %full.2 = icmp eq i64 %in.4096, 0
  br i1 %full.2, label %up.3, label %next
up.3:
  %old.3 = load <32 x float>, ptr %third
  %new.3 = fadd <32 x float> %old.3, %new.2
  store <32 x float> zeroinitializer, ptr %second
  store <32 x float> %new.3, ptr %third
  br label %next
next:
  %sum.next = phi <32 x float> [ %sum.new, %whole ], [ zeroinitializer, %up.1 ],
    [ zeroinitializer, %up.2 ], [ zeroinitializer, %up.3 ]
  %on = icmp ult i64 %i.next, %wholes
  br i1 %on, label %whole, label %summed
summed:
  %left = phi <32 x float> [ zeroinitializer, %begin ], [ %sum.next, %next ]
  %level.1 = load <32 x float>, ptr %levels
  %level.2 = load <32 x float>, ptr %second
  %level.3 = load <32 x float>, ptr %third
  %two = fadd <32 x float> %left, %level.1
  %three = fadd <32 x float> %two, %level.2
  %all = fadd <32 x float> %three, %level.3
{eights}
  %rest = shl i64 %wholes, 5
  %is.rest = icmp ult i64 %rest, %width
  br i1 %is.rest, label %part, label %parted
part:
  %p = phi i64 [ %rest, %summed ], [ %p.next, %part ]
  %first.old = phi <8 x float> [ %eight.0, %summed ], [ %first.new, %part ]
  %p.place = getelementptr i16, ptr %row, i64 %p
  %p.x = call <8 x float> @read.8(ptr %p.place)
  %p.square = fmul <8 x float> %p.x, %p.x
  %first.new = fadd <8 x float> %first.old, %p.square
  %p.next = add i64 %p, 8
  %p.on = icmp ult i64 %p.next, %width
  br i1 %p.on, label %part, label %parted
parted:
  %first = phi <8 x float> [ %eight.0, %summed ], [ %first.new, %part ]
  %to.1 = fadd <8 x float> %first, %eight.1
  %to.2 = fadd <8 x float> %to.1, %eight.2
  %to.3 = fadd <8 x float> %to.2, %eight.3
  %whole.sum = call float @llvm.vector.reduce.fadd.v8f32(float 0.0, <8 x float> %to.3)
  %count = uitofp i64 %width to float
  %mean = fdiv float %whole.sum, %count
  %more = fadd float %mean, %eps
  %root = call float @llvm.sqrt.f32(float %more)
  %scale = fdiv float 1.0, %root
  ret float %scale
}
"""


ROWS: Final = """
define internal void @{way}.rows(ptr %norm.{way}, i64 %first, i64 %stop) {{
begin:
{fields}
  br label %row
row:
  %r = phi i64 [ %first, %begin ], [ %r.next, %row.done ]
  %open = icmp ult i64 %r, %stop
  br i1 %open, label %sum, label %done
sum:
  %offset = mul i64 %r, %width
  %from = getelementptr i16, ptr %rows, i64 %offset
  %to = getelementptr i16, ptr %out, i64 %offset
  %scale = call float @scale(ptr %from, i64 %width, float %eps)
  %one = insertelement <8 x float> poison, float %scale, i64 0
  %scales = shufflevector <8 x float> %one, <8 x float> poison, <8 x i32> zeroinitializer
  br label %eight
eight:
  %i = phi i64 [ 0, %sum ], [ %i.next, %eight ]
  %x.place = getelementptr i16, ptr %from, i64 %i
  %w.place = getelementptr i16, ptr %weight, i64 %i
  %put = getelementptr i16, ptr %to, i64 %i
  %x = call <8 x float> @read.8(ptr %x.place)
  %w = call <8 x float> @read.8(ptr %w.place)
  %scaled = fmul <8 x float> %x, %scales
{turned}
  %product = fmul <8 x float> %factor, %turned
  %short = call <8 x i16> @rounded.8(<8 x float> %product)
  store <8 x i16> %short, ptr %put, align 2
  %i.next = add i64 %i, 8
  %on = icmp ult i64 %i.next, %width
  br i1 %on, label %eight, label %row.done
row.done:
  %r.next = add i64 %r, 1
  br label %row
done:
  ret void
}}
"""

WAYS: Final = {
    "twice": """  %first.round = call <8 x i16> @rounded.8(<8 x float> %scaled)
  %turned = call <8 x float> @long.8(<8 x i16> %first.round)
  %factor = fadd <8 x float> %w, splat (float -0.0)""",
    "once": """  %turned = fadd <8 x float> %scaled, splat (float -0.0)
  %factor = fadd <8 x float> %w, splat (float -0.0)""",
    "beyond_one": """  %turned = fadd <8 x float> %scaled, splat (float -0.0)
  %factor = fadd <8 x float> %w, splat (float 1.0)""",
}
"""What is multiplied: rounded inputs by weights, exact ones, or these by 1 + weights."""
FIELDS: Final = typed(ptr="rows weight out", i64="width", float="eps")
"""Rows, their weight, where the result goes, inputs of a row, epsilon."""


def source() -> str:
    """The whole module: a function for each way."""
    eights = [
        f"  %eight.{part} = shufflevector <32 x float> %all, <32 x float> poison, <8 x i32> <"
        + ", ".join(f"i32 {8 * part + lane}" for lane in range(8))
        + ">"
        for part in range(4)
    ]
    rows = [
        asking(way, f"norm.{way}", f"{way}.rows", FIELDS)
        + ROWS.format(way=way, turned=turned, fields=loads(f"norm.{way}", FIELDS))
        for way, turned in WAYS.items()
    ]
    scale = SCALE.replace("{eights}", "\n".join(eights))
    return "".join([SPREAD, short(8), short(32), rounded(8), scale, *rows])


@functools.cache
def _functions() -> dict[str, Callable[..., None]]:
    """Of each way; none where none can be made."""
    engine = engine_of(source())
    if engine is None:
        return {}
    sizes = ctypes.c_int64, ctypes.c_float, ctypes.c_int64
    kinds = *3 * [ctypes.c_void_p], *sizes, ctypes.c_int
    return {way: engine.function(way, None, *kinds) for way in WAYS}


def can_normalise(weight: torch.Tensor) -> bool:
    """Whether rows are normalised so here with this weight: in bfloat16, of whole parts."""
    fits = weight.ndim == 1 and len(weight) % LEAST == 0 and 0 < len(weight) < MOST
    here = weight.device.type == "cpu" and weight.dtype == torch.bfloat16
    return fits and here and weight.is_contiguous() and bool(_functions())


def normalised(x: torch.Tensor, weight: torch.Tensor, eps: float, way: str) -> torch.Tensor | None:
    """Rows (…, width), normalised, each row's bits its own; None unless all is in bfloat16 here.

    The weight is one that `can_normalise` took.
    """
    *before, width = x.shape
    alike = x.dtype is weight.dtype is torch.bfloat16 and len(weight) == width
    if not alike or not x.is_cpu or not weight.is_cpu:
        return None
    x, rows = x.contiguous(), prod(before)
    out = torch.empty_like(x)
    threads = 1 if rows * width < GRAIN else torch.get_num_threads()
    places = x.data_ptr(), weight.data_ptr(), out.data_ptr()
    call(_functions()[way], *places, width, eps, rows, threads)
    return out
