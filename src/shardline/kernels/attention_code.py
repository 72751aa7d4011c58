"""Attention of one token to all before it, as LLVM's text: the walk over what is asked.

An item is one row's queries that share a head of keys and values. They go over the keys block by
block of 64 positions, a tile of queries after the other (`attention_tiles.py`). So nothing is kept
but a block's scores, and each key and value is read from memory once. Blocks begin at the same
positions however the keys are cut into runs, so results do not depend on that.
"""

from __future__ import annotations

from typing import Final

from shardline.kernels.attention_tiles import TILES, tiles
from shardline.kernels.rounding import rounded, short
from shardline.kernels.softmax import BLOCK, LANES
from shardline.kernels.spreading import TEAM, loads, typed

__all__ = ["JOB", "ROW", "RUN", "source"]

LOOP: Final = """
; {what}
define internal void @{name}({given}, i64 %width) {{
begin:{before}
  br label %lanes
lanes:
  %at = phi i64 [ 0, %begin ], [ %at.next, %lanes ]
{body}
  %at.next = add i64 %at, {lanes}
  %within = icmp ult i64 %at.next, %width
  br i1 %within, label %lanes, label %done
done:
  ret void
}}
"""

COPY: Final = """  %taken = getelementptr i16, ptr %from, i64 %at
  %put = getelementptr i16, ptr %to, i64 %at
  %some = load <16 x i16>, ptr %taken, align 2
  store <16 x i16> %some, ptr %put, align 2"""
WIDEN: Final = """  %taken = getelementptr i16, ptr %from, i64 %at
  %put = getelementptr float, ptr %to, i64 %at
  %some = call <16 x float> @read.16(ptr %taken)
  store <16 x float> %some, ptr %put, align 64"""
CLEAR: Final = """  %put = getelementptr float, ptr %to, i64 %at
  store <16 x float> zeroinitializer, ptr %put, align 64"""
FINISH: Final = """  %taken = getelementptr float, ptr %sums, i64 %at
  %put = getelementptr i16, ptr %to, i64 %at
  %sum = load <16 x float>, ptr %taken, align 64
  %mean = fdiv <16 x float> %sum, %totals
  %short = call <16 x i16> @rounded.16(<16 x float> %mean)
  store <16 x i16> %short, ptr %put, align 2"""
TOTALS: Final = "\n  %totals = call <16 x float> @spread(float %total)"

WALK: Final = """
; All queries of an item by a block.
define internal void @block(ptr %queries, ptr %sums, ptr %peaks, ptr %totals, i64 %group,
    i64 %width, i64 %out.width, float %scale, ptr %keys, i64 %key.step, ptr %values,
    i64 %value.step, i64 %count) {{
begin:
  br label %some
some:
  %i = phi i64 [ 0, %begin ]{nexts}
  %left = sub i64 %group, %i
  %at = mul i64 %i, %width
  %query = getelementptr float, ptr %queries, i64 %at
  %out.at = mul i64 %i, %out.width
  %sum = getelementptr float, ptr %sums, i64 %out.at
  %peak = getelementptr float, ptr %peaks, i64 %i
  %total = getelementptr float, ptr %totals, i64 %i
  %any = icmp ne i64 %left, 0
  br i1 %any, label %if.{first}, label %done
{cases}
done:
  ret void
}}

; One item: its new key and value behind all others, at the end of the last run; then its queries by
; all blocks of all runs, and what was summed over the weights' totals.
define internal void @item(ptr %job, i64 %index) noinline {{
begin:
{job}
  %scale.bits = trunc i64 %scale.long to i32
  %scale = bitcast i32 %scale.bits to float
  %row.index = udiv i64 %index, %heads
  %head = urem i64 %index, %heads
  %row = getelementptr %row, ptr %rows, i64 %row.index
{row}
  %first = mul i64 %head, %group
  %numbers = mul i64 %group, %width
  %out.numbers = mul i64 %group, %out.width
  %queries = alloca float, i64 %numbers, align 64
  %sums = alloca float, i64 %out.numbers, align 64
  %peaks = alloca float, i64 %group, align 64
  %totals = alloca float, i64 %group, align 64
  %is.new = icmp ne ptr %new.keys, null
  br i1 %is.new, label %write, label %ask
write:
  %last = sub i64 %count, 1
  %end.run = getelementptr %run, ptr %runs, i64 %last
{end}
  %behind = sub i64 %end.tokens, 1
{written}
  br label %ask
ask:
  %q = phi i64 [ 0, %begin ], [ 0, %write ], [ %q.next, %ask ]
  %q.all = add i64 %first, %q
{query}
  %q.at = mul i64 %q, %width
  %q.to = getelementptr float, ptr %queries, i64 %q.at
  call void @widen(ptr %query, ptr %q.to, i64 %width)
  %q.peak = getelementptr float, ptr %peaks, i64 %q
  store float {lowest}, ptr %q.peak, align 4
  %q.total = getelementptr float, ptr %totals, i64 %q
  store float 0.0, ptr %q.total, align 4
  %q.out = mul i64 %q, %out.width
  %q.sum = getelementptr float, ptr %sums, i64 %q.out
  call void @clear(ptr %q.sum, i64 %out.width)
  %q.next = add i64 %q, 1
  %q.more = icmp ult i64 %q.next, %group
  br i1 %q.more, label %ask, label %next
next:
  %r = phi i64 [ 0, %ask ], [ %r.next, %next.done ]
  %run = getelementptr %run, ptr %runs, i64 %r
{run}
{mine}
  br label %block
block:
  %t = phi i64 [ 0, %next ], [ %t.next, %block ]
  %t.rest = sub i64 %tokens, %t
  %t.count = call i64 @llvm.umin.i64(i64 %t.rest, i64 {block})
  %key.at = mul i64 %t, %key.step
  %key = getelementptr i8, ptr %my.keys, i64 %key.at
  %value.at = mul i64 %t, %value.step
  %value = getelementptr i8, ptr %my.values, i64 %value.at
  call void @block(ptr %queries, ptr %sums, ptr %peaks, ptr %totals, i64 %group, i64 %width,
      i64 %out.width, float %scale, ptr %key, i64 %key.step, ptr %value, i64 %value.step,
      i64 %t.count)
  %t.next = add i64 %t, {block}
  %t.more = icmp ult i64 %t.next, %tokens
  br i1 %t.more, label %block, label %next.done
next.done:
  %r.next = add i64 %r, 1
  %r.more = icmp ult i64 %r.next, %count
  br i1 %r.more, label %next, label %store
store:
  %s = phi i64 [ 0, %next.done ], [ %s.next, %store ]
  %s.total = getelementptr float, ptr %totals, i64 %s
  %total = load float, ptr %s.total, align 4
  %s.at = mul i64 %s, %out.width
  %s.sum = getelementptr float, ptr %sums, i64 %s.at
  %out.heads = mul i64 %heads, %group
  %out.row = mul i64 %place, %out.heads
  %out.first = add i64 %out.row, %first
  %out.head = add i64 %out.first, %s
  %out.at = mul i64 %out.head, %out.width
  %out = getelementptr i16, ptr %outputs, i64 %out.at
  call void @finish(ptr %s.sum, float %total, ptr %out, i64 %out.width)
  %s.next = add i64 %s, 1
  %s.more = icmp ult i64 %s.next, %group
  br i1 %s.more, label %store, label %done
done:
  ret void
}}

; The items %first, %first + %pace, and so on.
define internal void @items(ptr %job, i64 %first, i64 %pace) {{
begin:
  %place = getelementptr %job, ptr %job, i32 0, i32 {items}
  %all = load i64, ptr %place
  br label %next
next:
  %at = phi i64 [ %first, %begin ], [ %at.next, %one ]
  %open = icmp ult i64 %at, %all
  br i1 %open, label %one, label %done
one:
  call void @item(ptr %job, i64 %at)
  %at.next = add i64 %at, %pace
  br label %next
done:
  ret void
}}

; One thread's part of it, on each thread of a team: of each session some heads, where it has them.
define internal void @part(ptr %job) {{
  %n32 = call i32 @omp_get_num_threads()
  %i32 = call i32 @omp_get_thread_num()
  %n = zext i32 %n32 to i64
  %i = zext i32 %i32 to i64
  call void @items(ptr %job, i64 %i, i64 %n)
  ret void
}}

; All of it, on so many threads.
define void @attend(ptr %job, i32 %threads) {{
  %alone = icmp ule i32 %threads, 1
  br i1 %alone, label %here, label %team
here:
  call void @items(ptr %job, i64 0, i64 1)
  ret void
team:
  call void @GOMP_parallel(ptr @part, ptr %job, i32 %threads, i32 0)
  ret void
}}
"""

JOB: Final = typed(
    ptr="rows new.queries new.keys new.values outputs",
    i64="items heads group width out.width queries.place queries.head keys.place keys.head "
    "values.place values.head scale.long",
)
"""What is asked: rows, queries, new keys (or none), new values, results; items (rows x shared
heads), shared heads, queries of each, width of keys, of values; bytes from place to place and from
head to head of queries, of new keys, of new values; the scale, as a float's bits."""
ROW: Final = {"place": "i64", "runs": "ptr", "count": "i64", "which": "i64"}
"""A row: its place among queries, new keys, and results; its runs, how many; its place in these."""
RUN: Final = typed(
    ptr="run.keys run.values",
    i64="tokens key.row key.head key.step value.row value.head value.step",
)
"""Tokens that follow each other: their keys, their values, how many they are; bytes from row to
row, head to head, and token to token of keys, then of values."""
WIDTHS: Final = {"key": "width", "value": "out.width"}
LOWEST: Final = "0xfff0000000000000"
"""Minus infinity."""


def source() -> str:
    """The whole module: `attend`, a job on so many threads."""
    structs = {"job": JOB, "row": ROW, "run": RUN}
    types = [f"%{name} = type {{ {', '.join(of.values())} }}\n" for name, of in structs.items()]
    to, both = "ptr %to", "ptr %from, ptr %to"
    loops = (
        _loop("So many numbers in bfloat16, as they are.", "copy", both, COPY),
        _loop("The same as float32.", "widen", both, WIDEN),
        _loop("So many zeros.", "clear", to, CLEAR),
        _loop(
            "Sums over the weights' total, in bfloat16.",
            *("finish", f"ptr %sums, float %total, {to}", FINISH, TOTALS),
        ),
    )
    parts = [TEAM, *types, rounded(LANES), short(LANES), tiles(), *loops, _walk()]
    return "".join(parts)


def _loop(what: str, name: str, given: str, body: str, before: str = "") -> str:
    """A function that does this to 16 numbers after the other."""
    return LOOP.format(what=what, name=name, given=given, body=body, before=before, lanes=LANES)


def _address(name: str, base: str, *terms: tuple[str, str]) -> str:
    """The address of what lies so many times so many bytes behind another."""
    lines: list[str] = []
    at = f"%{base}"
    for index, (count, step) in enumerate(terms):
        to = f"%{name}" if index == len(terms) - 1 else f"%{name}.{index}"
        lines.append(
            f"  %{name}.times.{index} = mul i64 %{count}, %{step}\n"
            f"  {to} = getelementptr i8, ptr {at}, i64 %{name}.times.{index}"
        )
        at = to
    return "\n".join(lines)


def _walk() -> str:
    given = (
        "ptr %query, ptr %sum, ptr %peak, ptr %total, i64 %width, i64 %out.width, float %scale,"
        " ptr %keys, i64 %key.step, ptr %values, i64 %value.step, i64 %count"
    )
    cases = [
        f"""if.{tile}:
  %is.{tile} = icmp uge i64 %left, {tile}
  br i1 %is.{tile}, label %do.{tile}, label %{f"if.{smaller}" if smaller else "done"}
do.{tile}:
  call void @tile.{tile}({given})
  %i.{tile} = add i64 %i, {tile}
  br label %some"""
        for tile, smaller in zip(TILES, (*TILES[1:], 0), strict=True)
    ]
    written: list[str] = []
    for kind in ("key", "value"):
        place, end = f"new.{kind}", f"end.{kind}"
        written += [
            _address(place, f"new.{kind}s", ("place", f"{kind}s.place"), ("head", f"{kind}s.head")),
            _address(
                end,
                f"end.run.{kind}s",
                *(("which", f"{end}.row"), ("head", f"{end}.head"), ("behind", f"{end}.step")),
            ),
            f"  call void @copy(ptr %{place}, ptr %{end}, i64 %{WIDTHS[kind]})",
        ]
    mine = [
        _address(f"my.{kind}s", f"run.{kind}s", ("which", f"{kind}.row"), ("head", f"{kind}.head"))
        for kind in ("key", "value")
    ]
    return WALK.format(
        nexts="".join(f", [ %i.{tile}, %do.{tile} ]" for tile in TILES),
        first=TILES[0],
        cases="\n".join(cases),
        job=loads("job", JOB, first=0),
        row=loads("row", ROW, first=0),
        end=loads("run", RUN, first=0, prefix="end."),
        run=loads("run", RUN, first=0),
        written="\n".join(written),
        query=_address(
            "query", "new.queries", ("place", "queries.place"), ("q.all", "queries.head")
        ),
        mine="\n".join(mine),
        block=BLOCK,
        lowest=LOWEST,
        items=list(JOB).index("items"),
    )
