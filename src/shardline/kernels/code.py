"""The product's code, as LLVM's text: a tile of a few rows, and the walk over panels.

Weights lie in panels of 32 outputs. A step of a tile reads 4 bytes of each output of its panel (two
inputs in bfloat16, four in 8 bits), 128 bytes in a row, and the same inputs of each of its rows,
and adds their products to rows x 32 sums, which stay in registers. So a panel is read from memory
once, as a stream, and asked for before its turn comes; further tiles of rows find it in the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shardline.kernels.arithmetic import HALVES
from shardline.kernels.laying import ROWS

if TYPE_CHECKING:
    from shardline.kernels.arithmetic import Arithmetic

__all__ = ["OUTPUTS", "source"]

OUTPUTS: Final = 32
"""Of a panel: two registers of 16 sums."""
FEW: Final = 4
"""Rows: for so many, `ahead_few` is how far weights are asked for."""
STEP: Final = 7
"""A step's 128 bytes of a panel, as a shift."""
POINTERS: Final = ("inputs", "weights", "outputs", "beside", "of.rows")
NUMBERS: Final = ("rows", "steps", "stretch", "all", "each")

HEAD: Final = """
declare i32 @omp_get_num_threads()
declare i32 @omp_get_thread_num()
"""

WALK: Final = """
; What is asked: inputs, weights, outputs, what outputs have besides, what rows have; rows, steps,
; steps of a stretch, panels, bytes of a result.
%job = type {{ ptr, ptr, ptr, ptr, ptr, i64, i64, i64, i64, i64 }}

; The panels [%first, %stop), each by all tiles of rows.
define internal void @panels(ptr %job, i64 %first, i64 %stop) {{
begin:
{fields}
  %column = shl i64 %each, 5
  %width = mul i64 %all, %column
  %over = add i64 %rows, {most}
  %tiles = udiv i64 %over, {rows}
  %panel.bytes = shl i64 %steps, {shift}
  br label %panel
panel:
  %at = phi i64 [ %first, %begin ], [ %at.next, %panel.done ]
  %open = icmp ult i64 %at, %stop
  br i1 %open, label %tile, label %done
tile:
  %left = phi i64 [ %tiles, %panel ], [ %left.next, %tile.done ]
  %row = phi i64 [ 0, %panel ], [ %row.next, %tile.done ]
  %offset = mul i64 %at, %panel.bytes
  %mine = getelementptr i8, ptr %weights, i64 %offset
  %new = icmp eq i64 %row, 0
  %pace = select i1 %new, i64 128, i64 0
  %in.offset = mul i64 %row, %steps
  %in = getelementptr i32, ptr %inputs, i64 %in.offset
  %row.offset = mul i64 %row, %width
  %columns = mul i64 %at, %column
  %out.offset = add i64 %row.offset, %columns
  %out = getelementptr i8, ptr %outputs, i64 %out.offset
  %beside.offset = shl i64 %at, {beside}
  %ours = getelementptr i8, ptr %beside, i64 %beside.offset
  %theirs = getelementptr float, ptr %of.rows, i64 %row
  %rest = sub i64 %rows, %row
  %these = udiv i64 %rest, %left
  switch i64 %these, label %done [ {cases} ]
{calls}
tile.done:
  %row.next = add i64 %row, %these
  %left.next = sub i64 %left, 1
  %more = icmp ne i64 %left.next, 0
  br i1 %more, label %tile, label %panel.done
panel.done:
  %at.next = add i64 %at, 1
  br label %panel
done:
  ret void
}}

; All of it, on the thread that asks.
define void @alone(ptr %job) {{
  %place = getelementptr %job, ptr %job, i32 0, i32 8
  %all = load i64, ptr %place
  call void @panels(ptr %job, i64 0, i64 %all)
  ret void
}}

; One thread's part of it, on each thread of a team.
define void @part(ptr %job) {{
  %place = getelementptr %job, ptr %job, i32 0, i32 8
  %all = load i64, ptr %place
  %n32 = call i32 @omp_get_num_threads()
  %i32 = call i32 @omp_get_thread_num()
  %n = zext i32 %n32 to i64
  %i = zext i32 %i32 to i64
  %i.next = add i64 %i, 1
  %low = mul i64 %all, %i
  %high = mul i64 %all, %i.next
  %first = udiv i64 %low, %n
  %stop = udiv i64 %high, %n
  call void @panels(ptr %job, i64 %first, i64 %stop)
  ret void
}}
"""

TILE: Final = """
; So many rows by one panel: sums of each stretch of steps, added up, and the end.
define internal void @tile.{rows}(ptr noalias %in, ptr noalias %weights, i64 %pace, i64 %steps,
    i64 %most, ptr noalias %out, i64 %width, i64 %each, ptr noalias %beside,
    ptr noalias %of.rows) {{
begin:
  br label %stretch
stretch:
  %from = phi i64 [ 0, %begin ], [ %to, %summed ]
{totals}
  %rest = sub i64 %steps, %from
  %some = call i64 @llvm.umin.i64(i64 %rest, i64 %most)
  %to = add i64 %from, %some
  br label %step
step:
  %k = phi i64 [ %from, %stretch ], [ %k.next, %step ]
{olds}
  %offset = shl i64 %k, {shift}
  %w.place.0 = getelementptr i8, ptr %weights, i64 %offset
  %w.place.1 = getelementptr i8, ptr %w.place.0, i64 64
  %w.0 = load {numbers}, ptr %w.place.0, align 64
  %w.1 = load {numbers}, ptr %w.place.1, align 64
  %far = mul i64 %k, %pace
  %far.most = add i64 %far, {ahead}
  %ask.0 = getelementptr i8, ptr %weights, i64 %far.most
  %ask.1 = getelementptr i8, ptr %ask.0, i64 64
  call void @llvm.prefetch.p0(ptr %ask.0, i32 0, i32 {near}, i32 1)
  call void @llvm.prefetch.p0(ptr %ask.1, i32 0, i32 {near}, i32 1)
  %in.offset = mul i64 %k, {rows}
  %in.place = getelementptr i32, ptr %in, i64 %in.offset
{products}
  %k.next = add i64 %k, 1
  %within = icmp ult i64 %k.next, %to
  br i1 %within, label %step, label %summed
summed:
{added}
  %more = icmp ult i64 %to, %steps
  br i1 %more, label %stretch, label %store
store:
{stored}
}}
"""


def source(arithmetic: Arithmetic) -> str:
    """The whole module: `alone` and `part` of a job, and `lay.…` for its inputs."""
    tiles = [_tile(arithmetic, rows) for rows in range(1, ROWS + 1)]
    return arithmetic.head + HEAD + "".join(tiles) + _walk(arithmetic)


def _walk(arithmetic: Arithmetic) -> str:
    fields = [
        f"  %{name}.place = getelementptr %job, ptr %job, i32 0, i32 {index}\n"
        f"  %{name} = load {'ptr' if name in POINTERS else 'i64'}, ptr %{name}.place"
        for index, name in enumerate(POINTERS + NUMBERS)
    ]
    given = (
        "ptr %in, ptr %mine, i64 %pace, i64 %steps, i64 %stretch, ptr %out, i64 %width, i64 %each,"
        " ptr %ours, ptr %theirs"
    )
    calls = [
        f"tile.{rows}:\n  call void @tile.{rows}({given})\n  br label %tile.done"
        for rows in range(1, ROWS + 1)
    ]
    return WALK.format(
        fields="\n".join(fields),
        most=ROWS - 1,
        rows=ROWS,
        shift=STEP,
        beside=arithmetic.panel,
        cases=" ".join(f"i64 {rows}, label %tile.{rows}" for rows in range(1, ROWS + 1)),
        calls="\n".join(calls),
    )


def _tile(arithmetic: Arithmetic, rows: int) -> str:
    sums, of = arithmetic.sums, [f"{row}.{half}" for row in range(rows) for half in HALVES]
    zero = f"phi {sums} [ zeroinitializer,"
    totals = [f"  %total.{at} = {zero} %begin ], [ %sum.{at}, %summed ]" for at in of]
    olds = [f"  %old.{at} = {zero} %stretch ], [ %new.{at}, %step ]" for at in of]
    added = [f"  %sum.{at} = {arithmetic.added} {sums} %total.{at}, %new.{at}" for at in of]
    products = [_products(arithmetic, row) for row in range(rows)]
    each = "\n".join
    ahead, near = arithmetic.ahead_few if rows <= FEW else arithmetic.ahead
    return TILE.format(
        rows=rows,
        totals=each(totals),
        olds=each(olds),
        products=each(products),
        added=each(added),
        stored=arithmetic.stored(rows),
        numbers=arithmetic.numbers,
        shift=STEP,
        ahead=ahead,
        near=near,
    )


def _products(arithmetic: Arithmetic, row: int) -> str:
    """One row's inputs of a step, spread, times the panel's."""
    lanes, first = "<16 x i32>", "zeroinitializer"
    lines = [
        f"  %x.place.{row} = getelementptr i32, ptr %in.place, i64 {row}",
        f"  %x.{row} = load i32, ptr %x.place.{row}, align 2",
        f"  %x.one.{row} = insertelement {lanes} poison, i32 %x.{row}, i64 0",
        f"  %x.all.{row} = shufflevector {lanes} %x.one.{row}, {lanes} poison, {lanes} {first}",
        f"  %x.step.{row} = bitcast {lanes} %x.all.{row} to {arithmetic.numbers}",
    ]
    for half in HALVES:
        product = arithmetic.product.format(
            old=f"%old.{row}.{half}", weights=f"%w.{half}", inputs=f"%x.step.{row}"
        )
        lines.append(f"  %new.{row}.{half} = {product}")
    return "\n".join(lines)
