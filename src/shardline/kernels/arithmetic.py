"""What a tile computes with: bfloat16, or 8-bit whole numbers; the rest of the walk is the same.

A step of a tile multiplies 4 bytes of each of its rows by 4 bytes of each of 32 outputs. These are
two inputs in bfloat16, added up in float32; or four in 8 bits, added up exactly. There the inputs'
whole numbers are unsigned for the instruction, so each is 128 too many, and 128 times the sum of an
output's codes is taken off at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from shardline.kernels import laying
from shardline.kernels.rounding import rounded

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BF16", "HALVES", "INT8", "Arithmetic"]

HALVES: Final = (0, 1)
"""Of a panel of outputs: two registers of 16 sums."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """The parts of the text in which one differs from the other."""

    weights: str
    """The dtype of weights."""
    inputs: int
    """Of a step: as many as 4 bytes of weights hold."""
    needed: str
    """What the processor must have."""
    better: str | None
    """With this torch's own kernel multiplies whole tiles, and is quicker than ours."""
    sums: str
    """The type of a register of sums, and what adds two."""
    added: str
    numbers: str
    """The type of a register of weights, or of a row's inputs."""
    product: str
    """Old sums, weights and inputs -> sums."""
    panel: int
    """Bytes of what a panel's outputs have besides their weights, as a shift."""
    ahead_few: tuple[int, int]
    ahead: tuple[int, int]
    """Bytes that weights are asked for before their turn, and into which cache: 3 is the first, 2
    the second. Few rows wait for memory, many compute."""
    rows: tuple[str, ...]
    """Of which types rows may be."""
    lies: bool
    """Whether a lone row is read where it lies."""
    head: str
    """What lays rows of these types into tiles, and what else `stored` needs."""
    stored: Callable[[int], str]
    """The end of a tile of so many rows: from sums to outputs."""


def _each(rows: int) -> list[tuple[int, int]]:
    return [(row, half) for row in range(rows) for half in HALVES]


def _places(rows: int) -> list[str]:
    """Where each row's outputs go."""
    lines: list[str] = []
    for row in range(rows):
        lines += [
            f"  %out.offset.{row} = mul i64 %width, {row}",
            f"  %out.place.{row} = getelementptr i8, ptr %out, i64 %out.offset.{row}",
        ]
    return lines


def _bf16_stored(rows: int) -> str:
    """The bias is added, and the whole is rounded once."""
    lines = [
        "  %bias.place.1 = getelementptr i8, ptr %beside, i64 64",
        "  %bias.0 = load <16 x float>, ptr %beside, align 4",
        "  %bias.1 = load <16 x float>, ptr %bias.place.1, align 4",
        *_places(rows),
    ]
    rounded = "call <16 x bfloat> @llvm.x86.avx512bf16.cvtneps2bf16.512"
    for row, half in _each(rows):
        at = f"{row}.{half}"
        lines += [
            f"  %out.half.{at} = getelementptr i8, ptr %out.place.{row}, i64 {32 * half}",
            f"  %whole.{at} = fadd <16 x float> %sum.{at}, %bias.{half}",
            f"  %short.{at} = {rounded}(<16 x float> %whole.{at})",
            f"  store <16 x bfloat> %short.{at}, ptr %out.half.{at}, align 2",
        ]
    return "\n".join([*lines, "  ret void"])


def _int8_stored(rows: int) -> str:
    """Times the output's scale, then times the row's; rounded if bfloat16 is asked for."""
    lines = [
        "  %most.0 = load <16 x i32>, ptr %beside, align 4",
        *(
            f"  %beside.{part} = getelementptr i8, ptr %beside, i64 {64 * part}"
            for part in (1, 2, 3)
        ),
        "  %most.1 = load <16 x i32>, ptr %beside.1, align 4",
        "  %scale.0 = load <16 x float>, ptr %beside.2, align 4",
        "  %scale.1 = load <16 x float>, ptr %beside.3, align 4",
        *_places(rows),
    ]
    lanes, first = "<16 x float>", "<16 x i32> zeroinitializer"
    for row in range(rows):
        lines += [
            f"  %row.place.{row} = getelementptr float, ptr %of.rows, i64 {row}",
            f"  %row.{row} = load float, ptr %row.place.{row}, align 4",
            f"  %row.one.{row} = insertelement {lanes} poison, float %row.{row}, i64 0",
            f"  %row.all.{row} = shufflevector {lanes} %row.one.{row}, {lanes} poison, {first}",
        ]
    for row, half in _each(rows):
        at = f"{row}.{half}"
        lines += [
            f"  %exact.{at} = sub <16 x i32> %sum.{at}, %most.{half}",
            f"  %number.{at} = sitofp <16 x i32> %exact.{at} to {lanes}",
            f"  %scaled.{at} = fmul {lanes} %number.{at}, %scale.{half}",
            f"  %whole.{at} = fmul {lanes} %scaled.{at}, %row.all.{row}",
        ]
    lines += [
        "  %is.long = icmp eq i64 %each, 4",
        "  br i1 %is.long, label %long, label %short",
        "long:",
    ]
    for row, half in _each(rows):
        at = f"{row}.{half}"
        lines += [
            f"  %out.long.{at} = getelementptr i8, ptr %out.place.{row}, i64 {64 * half}",
            f"  store {lanes} %whole.{at}, ptr %out.long.{at}, align 4",
        ]
    lines += ["  ret void", "short:"]
    for row, half in _each(rows):
        at = f"{row}.{half}"
        lines += [
            f"  %out.short.{at} = getelementptr i8, ptr %out.place.{row}, i64 {32 * half}",
            f"  %short.{at} = call <16 x i16> @rounded.16({lanes} %whole.{at})",
            f"  store <16 x i16> %short.{at}, ptr %out.short.{at}, align 2",
        ]
    return "\n".join([*lines, "  ret void"])


BF16: Final = Arithmetic(
    weights="bfloat16",
    inputs=2,
    needed="avx512bf16",
    better="amx-bf16",
    sums="<16 x float>",
    added="fadd",
    numbers="<32 x bfloat>",
    product="call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512("
    "<16 x float> {old}, <32 x bfloat> {weights}, <32 x bfloat> {inputs})",
    panel=7,
    ahead_few=(4096, 3),
    ahead=(16384, 2),
    rows=("bfloat16",),
    lies=True,
    head=laying.copied(),
    stored=_bf16_stored,
)

INT8: Final = Arithmetic(
    weights="int8",
    inputs=4,
    needed="avx512vnni",
    better=None,
    sums="<16 x i32>",
    added="add",
    numbers="<64 x i8>",
    product="call <16 x i32> @llvm.x86.avx512.vpdpbusd.512("
    "<16 x i32> {old}, <64 x i8> {inputs}, <64 x i8> {weights})",
    panel=8,
    ahead_few=(2048, 2),
    ahead=(8192, 2),
    rows=("bfloat16", "float32"),
    lies=False,
    head=laying.quantised() + rounded(16),
    stored=_int8_stored,
)
