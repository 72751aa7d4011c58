"""Attention's tiles, as LLVM's text: a few queries by the keys and values of a block.

A tile makes the block's scores, softens them to weights, and adds the values by these weights to
what was summed before. All is in float32, in vectors of 16 numbers, which LLVM cuts to what the
processor has.
"""

from __future__ import annotations

from typing import Final

from shardline.kernels.softmax import BLOCK, LANES, softmax

__all__ = ["TILES", "tiles"]

TILES: Final = (4, 2, 1)
"""Queries of a tile; the fewer, the more keys at a time, so that there are always 16 sums."""
SPAN: Final = 4
"""Vectors of values that are summed at a time; one where there are fewer left."""

SCORES: Final = """
; {tile} queries by the keys of a block, {keys} keys at a time: 16 sums of 16 lanes each, which are
; then added up crosswise into one vector. Behind the last key it stands in for those that are not.
define internal void @scores.{tile}(ptr %queries, i64 %width, ptr %keys, i64 %step, i64 %count,
    ptr noalias %scores) noinline {{
begin:
  %last = sub i64 %count, 1
  br label %some
some:
  %t = phi i64 [ 0, %begin ], [ %t.next, %summed ]
{places}
  br label %lanes
lanes:
  %at = phi i64 [ 0, %some ], [ %at.next, %lanes ]
{olds}
{read}
{products}
  %at.next = add i64 %at, 16
  %within = icmp ult i64 %at.next, %width
  br i1 %within, label %lanes, label %summed
summed:
{crosswise}
{stored}
  %t.next = add i64 %t, {keys}
  %more = icmp ult i64 %t.next, %count
  br i1 %more, label %some, label %done
done:
  ret void
}}
"""

VALUES: Final = """
; {tile} queries' sums of values, {span} vectors of each: those from before, times their factors,
; and the block's values by their weights.
define internal void @values.{tile}.{span}(ptr noalias %sums, i64 %width, ptr %values, i64 %step,
    i64 %count, ptr noalias %weights{factors}) noinline {{
begin:
{loaded}
  br label %token
token:
  %t = phi i64 [ 0, %begin ], [ %t.next, %token ]
{olds}
  %offset = mul i64 %t, %step
  %value = getelementptr i8, ptr %values, i64 %offset
{read}
{products}
  %t.next = add i64 %t, 1
  %within = icmp ult i64 %t.next, %count
  br i1 %within, label %token, label %done
done:
{stored}
  ret void
}}
"""

TILE: Final = """
; {tile} queries by a block.
define internal void @tile.{tile}(ptr %queries, ptr %sums, ptr %peaks, ptr %totals, i64 %width,
    i64 %out.width, float %scale, ptr %keys, i64 %key.step, ptr %values, i64 %value.step,
    i64 %count) noinline {{
begin:
  %scores = alloca [{all} x float], align 64
  call void @scores.{tile}(ptr %queries, i64 %width, ptr %keys, i64 %key.step, i64 %count,
      ptr %scores)
{softened}
  br label %lanes
lanes:
  %at = phi i64 [ 0, %begin ], [ %at.wide, %wide ], [ %at.narrow, %narrow ]
  %sum = getelementptr float, ptr %sums, i64 %at
  %value = getelementptr i16, ptr %values, i64 %at
  %rest = sub i64 %out.width, %at
  %some = icmp ne i64 %rest, 0
  br i1 %some, label %summing, label %done
summing:
  %many = icmp uge i64 %rest, {wide}
  br i1 %many, label %wide, label %narrow
wide:
  %at.wide = add i64 %at, {wide}
  call void @values.{tile}.{span}({given})
  br label %lanes
narrow:
  %at.narrow = add i64 %at, 16
  call void @values.{tile}.1({given})
  br label %lanes
done:
  ret void
}}
"""


def tiles() -> str:
    """`tile.…`, and what they and others compute with."""
    each = [_scores(tile) + _values(tile, SPAN) + _values(tile, 1) + _tile(tile) for tile in TILES]
    return "".join([softmax(), *each])


def _scores(tile: int) -> str:
    keys = LANES // tile
    places = [
        f"""  %t.{key} = add i64 %t, {key}
  %in.{key} = call i64 @llvm.umin.i64(i64 %t.{key}, i64 %last)
  %offset.{key} = mul i64 %in.{key}, %step
  %key.{key} = getelementptr i8, ptr %keys, i64 %offset.{key}"""
        for key in range(keys)
    ]
    read = [
        f"""  %key.at.{key} = getelementptr i16, ptr %key.{key}, i64 %at
  %k.{key} = call <16 x float> @read.16(ptr %key.at.{key})"""
        for key in range(keys)
    ]
    olds: list[str] = []
    products: list[str] = []
    stored: list[str] = []
    for query in range(tile):
        products.append(f"""  %first.{query} = mul i64 %width, {query}
  %lane.{query} = add i64 %first.{query}, %at
  %query.at.{query} = getelementptr float, ptr %queries, i64 %lane.{query}
  %q.{query} = load <16 x float>, ptr %query.at.{query}, align 64""")
        for key in range(keys):
            at = query * keys + key
            olds.append(
                f"  %old.{at} = phi <16 x float> [ zeroinitializer, %some ], [ %v.{at}, %lanes ]"
            )
            products.append(
                f"  %v.{at} = call <16 x float> @llvm.fmuladd.v16f32(<16 x float> %q.{query},"
                f" <16 x float> %k.{key}, <16 x float> %old.{at})"
            )
        positions = ", ".join(f"i32 {query * keys + key}" for key in range(keys))
        stored.append(f"""  %mine.{query} = shufflevector <16 x float> %whole, <16 x float> poison,
      <{keys} x i32> <{positions}>
  %to.{query} = add i64 %t, {BLOCK * query}
  %put.{query} = getelementptr float, ptr %scores, i64 %to.{query}
  store <{keys} x float> %mine.{query}, ptr %put.{query}, align {4 * keys}""")
    lines = "\n".join
    return SCORES.format(
        tile=tile,
        keys=keys,
        places=lines(places),
        olds=lines(olds),
        read=lines(read),
        products=lines(products),
        crosswise=_crosswise(),
        stored=lines(stored),
    )


def _crosswise() -> str:
    """16 vectors `%v.…` to one, `%whole`, of their lanes' sums.

    Two vectors become one of half the sums of each, four times; quarters stay by themselves for
    the first two times, and are added to each other in the last two.
    """
    pairs = [0, 16, 1, 17], [0, 1, 16, 17]
    within = [[4 * quarter + lane for quarter in range(4) for lane in pair] for pair in pairs]
    across = [4 * quarter + lane for quarter in (0, 2, 4, 6) for lane in range(4)]
    lows = [*((low, 2) for low in within), (across, 4), (across, 4)]
    lines: list[str] = []
    names = [f"%v.{at}" for at in range(LANES)]
    for level, (low, distance) in enumerate(lows):
        added: list[str] = []
        for at in range(len(names) // 2):
            mine = f"{level}.{at}"
            both = f"<16 x float> {names[2 * at]}, <16 x float> {names[2 * at + 1]}"
            for side, lanes in ("low", low), ("high", [lane + distance for lane in low]):
                mask = ", ".join(f"i32 {lane}" for lane in lanes)
                lines.append(f"  %{side}.{mine} = shufflevector {both},\n      <16 x i32> <{mask}>")
            added.append("%whole" if len(names) == 2 else f"%both.{mine}")  # noqa: PLR2004
            lines.append(f"  {added[-1]} = fadd <16 x float> %low.{mine}, %high.{mine}")
        names = added
    return "\n".join(lines)


def _values(tile: int, span: int) -> str:
    of = [(query, part) for query in range(tile) for part in range(span)]
    loaded = [
        f"""  %factors.{query} = call <16 x float> @spread(float %factor.{query})
  %first.{query} = mul i64 %width, {query}
  %sum.{query} = getelementptr float, ptr %sums, i64 %first.{query}"""
        for query in range(tile)
    ]
    products = [
        f"""  %at.{query} = add i64 %t, {BLOCK * query}
  %weight.at.{query} = getelementptr float, ptr %weights, i64 %at.{query}
  %weight.{query} = load float, ptr %weight.at.{query}, align 4
  %w.{query} = call <16 x float> @spread(float %weight.{query})"""
        for query in range(tile)
    ]
    read = [
        f"""  %value.at.{part} = getelementptr i16, ptr %value, i64 {LANES * part}
  %v.{part} = call <16 x float> @read.16(ptr %value.at.{part})"""
        for part in range(span)
    ]
    olds: list[str] = []
    stored: list[str] = []
    for query, part in of:
        at = f"{query}.{part}"
        loaded.append(f"""  %place.{at} = getelementptr float, ptr %sum.{query}, i64 {LANES * part}
  %before.{at} = load <16 x float>, ptr %place.{at}, align 64
  %start.{at} = fmul <16 x float> %before.{at}, %factors.{query}""")
        olds.append(
            f"  %old.{at} = phi <16 x float> [ %start.{at}, %begin ], [ %new.{at}, %token ]"
        )
        products.append(
            f"  %new.{at} = call <16 x float> @llvm.fmuladd.v16f32(<16 x float> %w.{query},"
            f" <16 x float> %v.{part}, <16 x float> %old.{at})"
        )
        stored.append(f"  store <16 x float> %new.{at}, ptr %place.{at}, align 64")
    lines = "\n".join
    return VALUES.format(
        tile=tile,
        span=span,
        factors="".join(f", float %factor.{query}" for query in range(tile)),
        loaded=lines(loaded),
        olds=lines(olds),
        read=lines(read),
        products=lines(products),
        stored=lines(stored),
    )


def _tile(tile: int) -> str:
    softened = [
        f"""  %scores.{query} = getelementptr float, ptr %scores, i64 {BLOCK * query}
  %peak.{query} = getelementptr float, ptr %peaks, i64 {query}
  %total.{query} = getelementptr float, ptr %totals, i64 {query}
  %factor.{query} = call float @soften(ptr %scores.{query}, i64 %count, float %scale,
      ptr %peak.{query}, ptr %total.{query})"""
        for query in range(tile)
    ]
    factors = "".join(f", float %factor.{query}" for query in range(tile))
    return TILE.format(
        tile=tile,
        all=BLOCK * tile,
        softened="\n".join(softened),
        span=SPAN,
        wide=SPAN * LANES,
        given="ptr %sum, i64 %out.width, ptr %value, i64 %value.step, i64 %count, ptr %scores"
        + factors,
    )
