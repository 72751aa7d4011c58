"""Work over a count of things, as LLVM's text: on the thread that asks, or on torch's own.

A module's work is a struct that begins with the function that does some of it and with the count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["GRAIN", "SPREAD", "TEAM", "THREADS", "asking", "loads", "stores", "typed"]

GRAIN: Final = 32768
"""Numbers that are worth a second thread where little is done with each: torch's own measure."""
THREADS: Final = ("omp_get_num_threads", "omp_get_thread_num", "GOMP_parallel")
"""What the text asks of the library whose threads torch uses."""

TEAM: Final = """
declare i32 @omp_get_num_threads()
declare i32 @omp_get_thread_num()
declare void @GOMP_parallel(ptr, ptr, i32, i32)
"""

SPREAD: Final = f"""{TEAM}
%work = type {{ ptr, i64 }}

; One thread's part of the work, on each thread of a team.
define internal void @part(ptr %work) {{
  %some = load ptr, ptr %work
  %place = getelementptr %work, ptr %work, i32 0, i32 1
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
  call void %some(ptr %work, i64 %first, i64 %stop)
  ret void
}}

; All of it, on so many threads.
define internal void @spread(ptr %work, i32 %threads) {{
  %alone = icmp ule i32 %threads, 1
  br i1 %alone, label %here, label %team
here:
  %some = load ptr, ptr %work
  %place = getelementptr %work, ptr %work, i32 0, i32 1
  %all = load i64, ptr %place
  call void %some(ptr %work, i64 0, i64 %all)
  ret void
team:
  call void @GOMP_parallel(ptr @part, ptr %work, i32 %threads, i32 0)
  ret void
}}
"""

ASKING: Final = """
%{struct} = type {{ %work, {kinds} }}

; So many of it, on so many threads.
define {seen}void @{name}({given}, i64 %count, i32 %threads) {{
  %{struct} = alloca %{struct}
  store ptr @{some}, ptr %{struct}
  %count.put = getelementptr %work, ptr %{struct}, i32 0, i32 1
  store i64 %count, ptr %count.put
{stores}
  call void @spread(ptr %{struct}, i32 %threads)
  ret void
}}
"""


def typed(**names: str) -> dict[str, str]:
    """Fields' types by name, from names by type."""
    return {name: kind for kind, some in names.items() for name in some.split()}


def asking(
    name: str, struct: str, some: str, fields: Mapping[str, str], *, seen: bool = True
) -> str:
    """A function that puts these fields (their types by name) into a work, and spreads it."""
    return ASKING.format(
        name=name,
        struct=struct,
        some=some,
        kinds=", ".join(fields.values()),
        given=", ".join(f"{kind} %{field}" for field, kind in fields.items()),
        stores=stores(struct, fields),
        seen="" if seen else "internal ",
    )


def loads(struct: str, fields: Mapping[str, str], first: int = 1, prefix: str = "") -> str:
    """Each field of a struct, from the first on, read; a work's own begin behind what all have."""
    return "\n".join(
        f"  %{prefix}{field}.at = getelementptr %{struct}, ptr %{prefix}{struct}, i32 0, i32 {at}\n"
        f"  %{prefix}{field} = load {kind}, ptr %{prefix}{field}.at"
        for at, (field, kind) in enumerate(fields.items(), first)
    )


def stores(struct: str, fields: Mapping[str, str], first: int = 1) -> str:
    """Each field, written."""
    return "\n".join(
        f"  %{field}.put = getelementptr %{struct}, ptr %{struct}, i32 0, i32 {at}\n"
        f"  store {kind} %{field}, ptr %{field}.put"
        for at, (field, kind) in enumerate(fields.items(), first)
    )
