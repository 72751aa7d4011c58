"""Work over a count of things, as LLVM's text: on the thread that asks, or on torch's own.

A module's work is a struct that begins with the function that does some of it and with the count.
"""

from __future__ import annotations

from typing import Final

__all__ = ["GRAIN", "SPREAD", "THREADS"]

GRAIN: Final = 32768
"""Numbers that are worth a second thread where little is done with each: torch's own measure."""
THREADS: Final = ("omp_get_num_threads", "omp_get_thread_num", "GOMP_parallel")
"""What the text asks of the library whose threads torch uses."""

SPREAD: Final = """
declare i32 @omp_get_num_threads()
declare i32 @omp_get_thread_num()
declare void @GOMP_parallel(ptr, ptr, i32, i32)

%work = type { ptr, i64 }

; One thread's part of the work, on each thread of a team.
define internal void @part(ptr %work) {
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
}

; All of it, on so many threads.
define internal void @spread(ptr %work, i32 %threads) {
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
}
"""
