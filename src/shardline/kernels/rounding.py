"""Between bfloat16 in memory and float32 in registers, as LLVM's text."""

from __future__ import annotations

from typing import Final

__all__ = ["rounded", "short"]

ROUNDED: Final = """
; To bfloat16 as torch rounds: to the nearest, to even; what is no number stays none.
define internal <{n} x i16> @rounded.{n}(<{n} x float> %x) alwaysinline {{
  %bits = bitcast <{n} x float> %x to <{n} x i32>
  %last = lshr <{n} x i32> %bits, splat (i32 16)
  %odd = and <{n} x i32> %last, splat (i32 1)
  %half = add <{n} x i32> %odd, splat (i32 32767)
  %up = add <{n} x i32> %bits, %half
  %none = fcmp uno <{n} x float> %x, zeroinitializer
  %sure = select <{n} x i1> %none, <{n} x i32> splat (i32 -1), <{n} x i32> %up
  %top = lshr <{n} x i32> %sure, splat (i32 16)
  %short = trunc <{n} x i32> %top to <{n} x i16>
  ret <{n} x i16> %short
}}
"""

SHORT: Final = """
define internal <{n} x float> @long.{n}(<{n} x i16> %x) alwaysinline {{
  %whole = zext <{n} x i16> %x to <{n} x i32>
  %bits = shl <{n} x i32> %whole, splat (i32 16)
  %long = bitcast <{n} x i32> %bits to <{n} x float>
  ret <{n} x float> %long
}}

define internal <{n} x float> @read.{n}(ptr %from) alwaysinline {{
  %x = load <{n} x i16>, ptr %from, align 2
  %long = call <{n} x float> @long.{n}(<{n} x i16> %x)
  ret <{n} x float> %long
}}
"""


def rounded(lanes: int) -> str:
    """`rounded.N`, of so many numbers."""
    return ROUNDED.format(n=lanes)


def short(lanes: int) -> str:
    """`long.N`, of numbers in a register, and `read.N`, of numbers at an address."""
    return SHORT.format(n=lanes)
