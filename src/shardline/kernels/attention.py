"""Attention of one token of each of many sessions, each to its own keys and values, in one call."""

from __future__ import annotations

import ctypes
import functools
import struct
from array import array
from typing import TYPE_CHECKING, Final

import torch

from shardline.kernels.attention_code import JOB, ROW, RUN, source
from shardline.kernels.calling import call
from shardline.kernels.compiling import engine_of
from shardline.kernels.softmax import BLOCK, LANES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Attention", "Form", "Runs", "attend", "can_attend"]

BYTES: Final = torch.bfloat16.itemsize
WIDTH_MOST: Final = 256
GROUP_MOST: Final = 64
"""Queries of a head of keys and values; in float32, they and their sums lie on a thread's stack."""
ALONE_MOST: Final = 1 << 17
"""Numbers that one thread has read by the time that others would have begun."""
ROW_FIELDS: Final = len(ROW)
ITEMS: Final = list(JOB).index("items")
TOKENS: Final = list(RUN).index("tokens") - len(RUN)
"""Where the last run's tokens stand in the kernel's table, from its end."""

Form = tuple[int, tuple[int, int]]
"""Heads, and the widths of a key and of a value."""

_NOTHING: Final = (
    torch.empty((1, 1, 0, 1), dtype=torch.bfloat16),
    torch.empty((1, 1, 0, 1), dtype=torch.bfloat16),
)


@functools.cache
def _compiled() -> Callable[[int, int], None] | None:
    """A job, by its address, on so many threads."""
    engine = engine_of(source())
    if engine is None:
        return None
    return engine.function("attend", None, ctypes.c_void_p, ctypes.c_int)


def can_attend(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> bool:
    """Whether there is a kernel for such, each (rows, heads, tokens, width), on this machine."""
    heads, shared = query.shape[1], keys.shape[1]
    return (
        query.dtype == keys.dtype == values.dtype == torch.bfloat16
        and query.is_cpu
        and keys.is_cpu
        and values.is_cpu
        and not (query.requires_grad or keys.requires_grad or values.requires_grad)
        and shared == values.shape[1] > 0
        and keys.shape[2] > 0
        and heads % shared == 0
        and 0 < heads // shared <= GROUP_MOST
        and query.shape[-1] == keys.shape[-1]
        and _fits(keys.shape[-1])
        and _fits(values.shape[-1])
        and _compiled() is not None
    )


class Runs:
    """Where a session's keys and values lie, each (rows, heads, tokens, width).

    They are in one run or several along the tokens, all but the last of whole blocks of 64. The
    last may have room for more than what is there, which `reach` says.
    """

    def __init__(self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self._held = [(_along(keys), _along(values)) for keys, values in pairs]
        keys, values = self._held[-1]
        self.rows, heads, self.room, width = keys.shape
        self.form: Form = heads, (width, values.shape[-1])
        self._before = 0
        self._table = array("q")
        for at, pair in enumerate(self._held, 1 - len(self._held)):
            self._before += self._take(pair, last=at == 0)
        self.tokens = self._before + self.room
        self.place = self._table.buffer_info()[0], len(pairs)
        """Of the kernel's table, and how many runs are in it."""

    def reach(self, tokens: int) -> None:
        """So many tokens of the last run are there; raises ValueError beyond its room."""
        if not 0 < tokens <= self.room:
            raise ValueError(f"{tokens} tokens where there is room for {self.room}")
        self._table[TOKENS] = tokens
        self.tokens = self._before + tokens

    def _take(self, pair: tuple[torch.Tensor, torch.Tensor], *, last: bool) -> int:
        """Check a run, and put it into the table; its tokens, of the last none."""
        tokens = pair[0].shape[2]
        if not tokens or not (last or tokens % BLOCK == 0):
            raise ValueError(f"a run of {tokens} tokens, not of whole blocks")
        heads, widths = self.form
        steps: list[int] = []
        for states, width in zip(pair, widths, strict=True):
            if states.dtype != torch.bfloat16 or not states.is_cpu or not _fits(width):
                raise ValueError(f"{states.dtype} of width {width} on {states.device}")
            if states.shape != (self.rows, heads, tokens, width):
                raise ValueError(f"keys or values of {tuple(states.shape)} beside others")
            steps += [BYTES * stride for stride in states.stride()[:3]]
        self._table.extend((pair[0].data_ptr(), pair[1].data_ptr(), tokens, *steps))
        return 0 if last else tokens


class Attention:
    """A call of the kernel, to be made for these sessions, and again for others of their form.

    It holds addresses: whoever calls it keeps what is at them.
    """

    def __init__(self, sessions: Sequence[tuple[int, Runs]], places: int, fixed: list[int]) -> None:
        self._places = places
        self.form = sessions[0][1].form
        self._job = array("q", [0, *fixed])
        self.ask(sessions)

    def ask(self, sessions: Sequence[tuple[int, Runs]]) -> None:
        """Whose keys and values are seen next; raises ValueError."""
        shared, widths = self.form
        self._rows, read = _rows(sessions, self._places, self.form)
        asked = len(self._rows) // ROW_FIELDS
        self._job[0], self._job[ITEMS] = self._rows.buffer_info()[0], asked * shared
        few = read * shared * sum(widths) < ALONE_MOST
        self._threads = 1 if few else torch.get_num_threads()

    def __call__(self) -> None:
        """Write the results."""
        _kernel()(self._job.buffer_info()[0], self._threads)


def attend(
    query: torch.Tensor,
    sessions: Sequence[tuple[int, Runs]],
    fresh: tuple[torch.Tensor, torch.Tensor] | None = None,
    scale: float | None = None,
    note: Callable[[Attention], None] | None = None,
) -> torch.Tensor:
    """(1, heads, places, width) -> (1, places, heads, width of values); zeros where nobody asks.

    A session's rows are at the places from its first on, and see all that is in its runs. `fresh`
    are keys and values of these places, which are first written over each row's last token. `note`
    gets the call before it is made.
    """
    _kernel()
    _, heads, places, width = query.shape
    shared, widths = sessions[0][1].form
    keys, values = fresh or _NOTHING
    given = [_along(states) for states in (query, keys, values)]
    _check_given(given, shared, widths, new=fresh is not None)
    whole = sum(runs.rows for _, runs in sessions) == places
    out = (query.new_empty if whole else query.new_zeros)((1, places, heads, widths[1]))
    strides = [states.stride() for states in given]
    steps = [BYTES * stride[dim] for stride in strides for dim in (2, 1)]
    scale_bits = _bits(width**-0.5 if scale is None else float(scale))
    at = [states.data_ptr() for states in (*given, out)]
    sizes = 0, shared, heads // shared, *widths
    attention = Attention(sessions, places, [*at, *sizes, *steps, scale_bits])
    if note is not None:
        note(attention)
    call(attention)
    return out


def _kernel() -> Callable[[int, int], None]:
    kernel = _compiled()
    if kernel is None:
        raise ValueError("there is no kernel for attention on this machine")
    return kernel


def _rows(sessions: Sequence[tuple[int, Runs]], places: int, form: Form) -> tuple[array[int], int]:
    """The kernel's table, and how many tokens it reads."""
    rows = array("q")
    read = 0
    for first, runs in sessions:
        if runs.form != form:
            raise ValueError(f"heads and widths of {runs.form} beside {form}")
        if not 0 <= first <= places - runs.rows:
            raise ValueError(f"{runs.rows} rows from {first} on, of {places} places")
        for row in range(runs.rows):
            rows.extend((first + row, *runs.place, row))
        read += runs.rows * runs.tokens
    return rows, read


def _check_given(
    given: Sequence[torch.Tensor], shared: int, widths: tuple[int, int], *, new: bool
) -> None:
    """Raise ValueError unless queries, and new keys and values, go with these heads."""
    query, keys, values = given
    _, heads, places, width = query.shape
    fit = query.shape[0] == 1 and width == widths[0] and 0 < heads <= GROUP_MOST * shared
    if new:
        fit = fit and all(
            states.shape == (1, shared, places, own)
            for states, own in zip((keys, values), widths, strict=True)
        )
    if not fit or heads % shared:
        shapes = [tuple(states.shape) for states in given]
        raise ValueError(f"{shapes} to {shared} heads of {widths}")
    if any(one.dtype != torch.bfloat16 or not one.is_cpu for one in given):
        raise ValueError("queries, or new keys or values, that are not in bfloat16 on the CPU")


def _along(states: torch.Tensor) -> torch.Tensor:
    """The same, each vector's numbers side by side."""
    return states if states.stride(-1) == 1 else states.contiguous()


def _fits(width: int) -> bool:
    return 0 < width <= WIDTH_MOST and width % LANES == 0


@functools.cache
def _bits(scale: float) -> int:
    """Of a float32."""
    return int.from_bytes(struct.pack("<f", scale), "little")
