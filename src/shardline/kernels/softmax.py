"""The softmax of attention, as LLVM's text: in float32, block by block, 16 numbers at a time."""

from __future__ import annotations

import struct
from typing import Final

__all__ = ["BLOCK", "LANES", "softmax"]

LANES: Final = 16
"""Of a vector."""
BLOCK: Final = 64
"""Positions whose scores are softened at a time."""
VECTORS: Final = BLOCK // LANES

POLYNOMIAL: Final = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
"""Of (e^r - 1 - r) / r^2 where |r| <= ln 2 / 2, the highest power first: Cephes's."""
LOG2_E: Final = 1.44269504088896341
LN_2: Final = -0.693359375, 2.12194440e-4
"""Its negative in two parts, of which the first has so few bits that its multiples are exact."""
LARGE: Final = 12582912.0
"""1.5 x 2^23: what is added to it is rounded to whole numbers."""
LEAST: Final = -87.33654
"""Below, e^x is no normal number."""

VECTOR: Final = """
define internal <16 x float> @spread(float %x) alwaysinline {
  %one = insertelement <16 x float> poison, float %x, i64 0
  %all = shufflevector <16 x float> %one, <16 x float> poison, <16 x i32> zeroinitializer
  ret <16 x float> %all
}

; The larger one; the second if either is no number.
define internal <16 x float> @larger(<16 x float> %a, <16 x float> %b) alwaysinline {
  %is = fcmp ogt <16 x float> %a, %b
  %most = select <16 x i1> %is, <16 x float> %a, <16 x float> %b
  ret <16 x float> %most
}
"""

EXP: Final = """
; e^x of x <= 0: 2^n e^r with a whole n and a small r, whose power is a polynomial. What would be no
; normal number is zero; what is no number stays none.
define internal <16 x float> @exp(<16 x float> %x) alwaysinline {{
  %high = call <16 x float> @llvm.fmuladd.v16f32(<16 x float> %x, <16 x float> {log2_e},
      <16 x float> {large})
  %n = fsub <16 x float> %high, {large}
  %most = call <16 x float> @llvm.fmuladd.v16f32(<16 x float> %n, <16 x float> {ln_2_high},
      <16 x float> %x)
  %r = call <16 x float> @llvm.fmuladd.v16f32(<16 x float> %n, <16 x float> {ln_2_low},
      <16 x float> %most)
{polynomial}
  %rr = fmul <16 x float> %r, %r
  %bent = call <16 x float> @llvm.fmuladd.v16f32(<16 x float> {last}, <16 x float> %rr,
      <16 x float> %r)
  %power = fadd <16 x float> %bent, splat (float 1.0)
  ; n stands in the lowest bits of what was rounded; as an exponent it is 127 more.
  %bits = bitcast <16 x float> %high to <16 x i32>
  %up = shl <16 x i32> %bits, splat (i32 23)
  %exponent = add <16 x i32> %up, splat (i32 1065353216)
  %scale = bitcast <16 x i32> %exponent to <16 x float>
  %whole = fmul <16 x float> %power, %scale
  %tiny = fcmp olt <16 x float> %x, {least}
  %y = select <16 x i1> %tiny, <16 x float> zeroinitializer, <16 x float> %whole
  ret <16 x float> %y
}}
"""

SOFTEN: Final = """
; One query's scores of a block to weights, in place: e to what each is less than the largest so
; far. The largest, and the weights' total, go on from block to block. Gives what all that was
; summed before is to be multiplied by.
define internal float @soften(ptr %scores, i64 %count, float %scale, ptr %peak,
    ptr %total) noinline {{
  %scales = call <16 x float> @spread(float %scale)
  %short = trunc i64 %count to i32
  %one = insertelement <16 x i32> poison, i32 %short, i64 0
  %counts = shufflevector <16 x i32> %one, <16 x i32> poison, <16 x i32> zeroinitializer
{scaled}
  %most = call nnan float @llvm.vector.reduce.fmax.v16f32(<16 x float> %peak.{vectors})
  %old = load float, ptr %peak, align 4
  %rises = fcmp ogt float %most, %old
  %new = select i1 %rises, float %most, float %old
  store float %new, ptr %peak, align 4
  ; As long as all are minus infinity there is nothing to compare with.
  %none = fcmp oeq float %new, {lowest}
  %base = select i1 %none, float 0.0, float %new
  %bases = call <16 x float> @spread(float %base)
{weighed}
  %sum = call reassoc float @llvm.vector.reduce.fadd.v16f32(float 0.0, <16 x float> %sum.{vectors})
  %fall = fsub float %old, %base
  %falls = call <16 x float> @spread(float %fall)
  %factors = call <16 x float> @exp(<16 x float> %falls)
  %factor = extractelement <16 x float> %factors, i64 0
  %total.old = load float, ptr %total, align 4
  %total.new = call float @llvm.fmuladd.f32(float %total.old, float %factor, float %sum)
  store float %total.new, ptr %total, align 4
  ret float %factor
}}
"""

SCALED: Final = """
  %place.{at} = getelementptr float, ptr %scores, i64 {first}
  %raw.{at} = load <16 x float>, ptr %place.{at}, align 64
  %scaled.{at} = fmul <16 x float> %raw.{at}, %scales
  %there.{at} = icmp ult <16 x i32> <{positions}>, %counts
  %score.{at} = select <16 x i1> %there.{at}, <16 x float> %scaled.{at}, <16 x float> {lowest}
  %peak.{next} = call <16 x float> @larger(<16 x float> %score.{at}, <16 x float> {peak})"""

WEIGHED: Final = """
  %less.{at} = fsub <16 x float> %score.{at}, %bases
  %weight.{at} = call <16 x float> @exp(<16 x float> %less.{at})
  store <16 x float> %weight.{at}, ptr %place.{at}, align 64
  %sum.{next} = fadd <16 x float> {sum}, %weight.{at}"""


def softmax() -> str:
    """`soften`, and what it and attention compute with: `exp`, `larger`, `spread`."""
    return VECTOR + _exp() + _soften()


def _exact(x: float) -> str:
    """A float32 as the text must have it: the bits of the same number in 64."""
    rounded: float = struct.unpack("<f", struct.pack("<f", x))[0]
    return f"0x{struct.pack('>d', rounded).hex()}"


def _each(x: float) -> str:
    return f"splat (float {_exact(x)})"


def _exp() -> str:
    lines: list[str] = []
    last = _each(POLYNOMIAL[0])
    for at, factor in enumerate(POLYNOMIAL[1:]):
        lines.append(
            f"  %p.{at} = call <16 x float> @llvm.fmuladd.v16f32(<16 x float> {last},"
            f" <16 x float> %r, <16 x float> {_each(factor)})"
        )
        last = f"%p.{at}"
    return EXP.format(
        log2_e=_each(LOG2_E),
        large=_each(LARGE),
        ln_2_high=_each(LN_2[0]),
        ln_2_low=_each(LN_2[1]),
        polynomial="\n".join(lines),
        last=last,
        least=_each(LEAST),
    )


def _soften() -> str:
    lowest = _exact(float("-inf"))
    scaled, weighed = "", ""
    for at in range(VECTORS):
        first, following = LANES * at, at + 1
        positions = ", ".join(f"i32 {first + lane}" for lane in range(LANES))
        peak = f"%peak.{at}" if at else f"splat (float {lowest})"
        total = f"%sum.{at}" if at else "zeroinitializer"
        scaled += SCALED.format(
            at=at,
            next=following,
            first=first,
            positions=positions,
            peak=peak,
            lowest=f"splat (float {lowest})",
        )
        weighed += WEIGHED.format(at=at, next=following, sum=total)
    return SOFTEN.format(scaled=scaled, weighed=weighed, lowest=lowest, vectors=VECTORS)
