"""Rows into tiles, as LLVM's text: each tile's rows side by side, step by step.

So a tile reads one address after the other: rows of 4,096 bytes where they lie would all fall on
the same few lines of the first cache. In 8 bits the rows are quantised on the way, as torch would.
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = ["ROWS", "SLACK_BYTES", "TINY", "copied", "quantised"]

ROWS: Final = 8
"""Of a tile at most: 16 registers of sums are enough to hide how long one addition takes."""
STEPS: Final = 4
"""That are quantised at a time: 16 inputs."""
SLACK_BYTES: Final = 4 * (STEPS - 1) * ROWS
"""What may be written beyond the last row's steps."""
TINY: Final = 2.0**-100
"""The scale of a row of zeros."""

LAY: Final = """
; %rows rows, {step} bytes a step, into tiles: those that are given, and after the last the first
; again. Gives the largest of what each row gives.
define internal float @lay.{name}(ptr %from, ptr %to, ptr %of.rows, i64 %given, i64 %rows,
    i64 %steps) {{
begin:
  %over = add i64 %rows, {most}
  %tiles = udiv i64 %over, {rows}
  br label %tile
tile:
  %left = phi i64 [ %tiles, %begin ], [ %left.next, %tile.done ]
  %row = phi i64 [ 0, %begin ], [ %row.next, %tile.done ]
  %peak = phi i32 [ 0, %begin ], [ %peak.next, %tile.done ]
  %rest = sub i64 %rows, %row
  %these = udiv i64 %rest, %left
  %offset = mul i64 %row, %steps
  %target = getelementptr i32, ptr %to, i64 %offset
  %scales = getelementptr float, ptr %of.rows, i64 %row
  br label %one
one:
  %r = phi i64 [ 0, %tile ], [ %r.next, %one ]
  %peak.old = phi i32 [ %peak, %tile ], [ %peak.next, %one ]
  %in.all = add i64 %row, %r
  %which = urem i64 %in.all, %given
  %start = mul i64 %which, %steps
  %line = getelementptr [{step} x i8], ptr %from, i64 %start
  %first = getelementptr i32, ptr %target, i64 %r
  %scale = getelementptr float, ptr %scales, i64 %r
  %mine = call i32 @row.{name}(ptr %line, ptr %first, ptr %scale, i64 %these, i64 %steps)
  %peak.next = call i32 @llvm.umax.i32(i32 %peak.old, i32 %mine)
  %r.next = add i64 %r, 1
  %again = icmp ult i64 %r.next, %these
  br i1 %again, label %one, label %tile.done
tile.done:
  %row.next = add i64 %row, %these
  %left.next = sub i64 %left, 1
  %more = icmp ne i64 %left.next, 0
  br i1 %more, label %tile, label %done
done:
  %largest = bitcast i32 %peak.next to float
  ret float %largest
}}
"""

COPY: Final = """
define internal i32 @row.{name}(ptr noalias %line, ptr noalias %to, ptr %scale, i64 %these,
    i64 %steps) {{
begin:
  br label %step
step:
  %k = phi i64 [ 0, %begin ], [ %k.next, %step ]
  %taken = getelementptr i32, ptr %line, i64 %k
  %value = load i32, ptr %taken, align 2
  %spot = mul i64 %k, %these
  %put = getelementptr i32, ptr %to, i64 %spot
  store i32 %value, ptr %put, align 4
  %k.next = add i64 %k, 1
  %within = icmp ult i64 %k.next, %steps
  br i1 %within, label %step, label %done
done:
  ret i32 0
}}
"""

READ: Final = """
; 16 inputs as float32's bits, zeros beyond the last.
define internal <16 x i32> @read.{name}(ptr %line, i64 %i, i64 %inputs) alwaysinline {{
  %there = call <16 x i1> @llvm.get.active.lane.mask.v16i1.i64(i64 %i, i64 %inputs)
  %place = getelementptr {bits}, ptr %line, i64 %i
  %some = call <16 x {bits}> @llvm.masked.load.v16{bits}.p0(ptr align {align} %place,
      <16 x i1> %there, <16 x {bits}> zeroinitializer)
{long}
  ret <16 x i32> %long
}}
"""

QUANTISE: Final = """
; One row: its scale, and its whole numbers plus 128; gives the bits of its largest magnitude, which
; are in the magnitudes' order, beyond infinity those of what is no number.
define internal i32 @row.{name}(ptr noalias %line, ptr noalias %to, ptr noalias %scale.place,
    i64 %these, i64 %steps) {{
begin:
  %inputs = shl i64 %steps, 2
  br label %look
look:
  %i = phi i64 [ 0, %begin ], [ %i.next, %look ]
  %old = phi <16 x i32> [ zeroinitializer, %begin ], [ %new, %look ]
  %seen = call <16 x i32> @read.{name}(ptr %line, i64 %i, i64 %inputs)
  %sizes = and <16 x i32> %seen, splat (i32 2147483647)
  %new = call <16 x i32> @llvm.umax.v16i32(<16 x i32> %old, <16 x i32> %sizes)
  %i.next = add i64 %i, 16
  %look.on = icmp ult i64 %i.next, %inputs
  br i1 %look.on, label %look, label %seen.all
seen.all:
  %bits = call i32 @llvm.vector.reduce.umax.v16i32(<16 x i32> %new)
  %peak = bitcast i32 %bits to float
  %given = fdiv float %peak, 127.0
  %small = fcmp olt float %given, {tiny}
  %scale = select i1 %small, float {tiny}, float %given
  store float %scale, ptr %scale.place, align 4
  %scale.one = insertelement <16 x float> poison, float %scale, i64 0
  %scales = shufflevector <16 x float> %scale.one, <16 x float> poison, <16 x i32> zeroinitializer
  br label %some
some:
  %k = phi i64 [ 0, %seen.all ], [ %k.next, %some ]
  %at = shl i64 %k, 2
  %read = call <16 x i32> @read.{name}(ptr %line, i64 %at, i64 %inputs)
  %x = bitcast <16 x i32> %read to <16 x float>
  %parts = fdiv <16 x float> %x, %scales
  ; What is no number becomes 127, as in FBGEMM.
  %fits = fcmp olt <16 x float> %parts, splat (float 127.0)
  %most = select <16 x i1> %fits, <16 x float> %parts, <16 x float> splat (float 127.0)
  %whole = call <16 x i32> @llvm.x86.avx512.mask.cvtps2dq.512(<16 x float> %most,
      <16 x i32> zeroinitializer, i16 -1, i32 4)
  %positive = add <16 x i32> %whole, splat (i32 128)
  %bytes = trunc <16 x i32> %positive to <16 x i8>
  %words = bitcast <16 x i8> %bytes to <4 x i32>
{stores}
  %k.next = add i64 %k, 4
  %on = icmp ult i64 %k.next, %steps
  br i1 %on, label %some, label %done
done:
  ret i32 %bits
}}
"""


def copied() -> str:
    """`lay.bfloat16`, of two inputs a step, which stay as they are."""
    return COPY.format(name="bfloat16") + _lay("bfloat16", 4)


def quantised() -> str:
    """`lay.bfloat16` and `lay.float32`, of four inputs a step, and their rows' scales."""
    short = """  %whole = zext <16 x i16> %some to <16 x i32>
  %long = shl <16 x i32> %whole, splat (i32 16)"""
    long = "  %long = add <16 x i32> %some, zeroinitializer"
    return _quantised("bfloat16", 2, short) + _quantised("float32", 4, long)


def _quantised(name: str, each: int, long: str) -> str:
    stores = [
        f"""  %word.{part} = extractelement <4 x i32> %words, i64 {part}
  %k.{part} = add i64 %k, {part}
  %spot.{part} = mul i64 %k.{part}, %these
  %put.{part} = getelementptr i32, ptr %to, i64 %spot.{part}
  store i32 %word.{part}, ptr %put.{part}, align 4"""
        for part in range(STEPS)
    ]
    tiny = f"0x{struct.pack('>d', TINY).hex()}"
    reading = READ.format(name=name, bits=f"i{8 * each}", align=each, long=long)
    row = QUANTISE.format(name=name, tiny=tiny, stores="\n".join(stores))
    return reading + row + _lay(name, 4 * each)


def _lay(name: str, step: int) -> str:
    return LAY.format(name=name, step=step, most=ROWS - 1, rows=ROWS)
