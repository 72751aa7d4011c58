"""The product's code, as LLVM's text: a tile of a few rows, and the walk over panels.

Weights lie in panels of 32 outputs. A step of a tile reads 4 bytes of each output of its panel (two
inputs in bfloat16, four in 8 bits), 128 bytes in a row, and the same inputs of each of its rows,
and adds their products to rows x 32 sums, which stay in registers. So a panel is read from memory
once, as a stream, and asked for before its turn comes; further tiles of rows find it in the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shardline.kernels.arithmetic import HALVES
from shardline.kernels.laying import ROWS, SLACK_BYTES
from shardline.kernels.spreading import SPREAD, loads, stores, typed

if TYPE_CHECKING:
    from shardline.kernels.arithmetic import Arithmetic

__all__ = ["OUTPUTS", "source"]

OUTPUTS: Final = 32
"""Of a panel: two registers of 16 sums."""
FEW: Final = 4
"""Rows: for so many, `ahead_few` is how far weights are asked for."""
STEP: Final = 7
"""A step's 128 bytes of a panel, as a shift."""
HELD: Final = typed(ptr="weights beside", i64="all steps stretch")
"""Of a weight, for good: weights, what outputs have besides, panels, steps, a stretch's."""
JOB: Final = typed(ptr="weights beside inputs outputs of.rows", i64="steps stretch rows each")
"""What is asked: the weight's own, inputs, outputs, what rows have, rows, a result's bytes."""
EACH: Final = {"bfloat16": 2, "float32": 4}
"""Bytes of a number."""

HEAD: Final = """
declare noalias ptr @malloc(i64)
declare void @free(ptr)
"""

WALK: Final = """
%held = type {{ {held} }}
%job = type {{ %work, {job} }}

; The panels [%first, %stop), each by all tiles of rows.
define internal void @panels(ptr %job, i64 %first, i64 %stop) {{
begin:
  %all.place = getelementptr %work, ptr %job, i32 0, i32 1
  %all = load i64, ptr %all.place
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
"""

PRODUCT: Final = """
; So many rows, made so many, times a weight: 1. If inputs are looked at and one is larger than
; `most` or no number, 0; without memory to lay them in, 2. No number as `most` takes any.
define i32 @product.{name}(ptr %held, ptr %x, ptr %outputs, i64 %given, i64 %rows, float %most,
    i32 %threads) {{
begin:
  %job = alloca %job
{fields}
  %each = add i64 0, {each}
  %lone = icmp ule i64 %rows, {lone}
  br i1 %lone, label %multiply, label %lay
lay:
  %elements = mul i64 %rows, %steps
  %tiles.bytes = shl i64 %elements, 2
  %tiles.all = add i64 %tiles.bytes, {slack}
  %scales.bytes = shl i64 %rows, 2
  %bytes = add i64 %tiles.all, %scales.bytes
  %tiles = call ptr @malloc(i64 %bytes)
  %none = icmp eq ptr %tiles, null
  br i1 %none, label %done, label %given.memory
given.memory:
  %scales = getelementptr i8, ptr %tiles, i64 %tiles.all
  %peak = call float @lay.{name}(ptr %x, ptr %tiles, ptr %scales, i64 %given, i64 %rows,
    i64 %steps)
  %within = fcmp ole float %peak, %most
  %any = fcmp uno float %most, %most
  %go = or i1 %within, %any
  br i1 %go, label %multiply, label %laid
multiply:
  %inputs = phi ptr [ %x, %begin ], [ %tiles, %given.memory ]
  %of.rows = phi ptr [ null, %begin ], [ %scales, %given.memory ]
  %taken = phi ptr [ null, %begin ], [ %tiles, %given.memory ]
  store ptr @panels, ptr %job
  %all.put = getelementptr %work, ptr %job, i32 0, i32 1
  store i64 %all, ptr %all.put
{puts}
  call void @spread(ptr %job, i32 %threads)
  br label %laid
laid:
  %multiplied = phi i32 [ 0, %given.memory ], [ 1, %multiply ]
  %free = phi ptr [ %tiles, %given.memory ], [ %taken, %multiply ]
  call void @free(ptr %free)
  br label %done
done:
  %found = phi i32 [ 2, %lay ], [ %multiplied, %laid ]
  ret i32 %found
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
    """The whole module: `product.…` for inputs of each type."""
    tiles = [_tile(arithmetic, rows) for rows in range(1, ROWS + 1)]
    products = [_product(arithmetic, name) for name in arithmetic.rows]
    parts = [SPREAD, HEAD, arithmetic.head, *tiles, _walk(arithmetic), *products]
    return "".join(parts)


def _product(arithmetic: Arithmetic, name: str) -> str:
    return PRODUCT.format(
        name=name,
        fields=loads("held", HELD, first=0),
        puts=stores("job", JOB),
        each=EACH[name],
        lone=int(arithmetic.lies),
        slack=SLACK_BYTES,
    )


def _walk(arithmetic: Arithmetic) -> str:
    given = (
        "ptr %in, ptr %mine, i64 %pace, i64 %steps, i64 %stretch, ptr %out, i64 %width, i64 %each,"
        " ptr %ours, ptr %theirs"
    )
    calls = [
        f"tile.{rows}:\n  call void @tile.{rows}({given})\n  br label %tile.done"
        for rows in range(1, ROWS + 1)
    ]
    return WALK.format(
        held=", ".join(HELD.values()),
        job=", ".join(JOB.values()),
        fields=loads("job", JOB),
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
