"""What torch and our kernels did, written down so that it can be done again without Python's part.

Memory that the work makes is taken from an arena, and given back when nobody holds it, so that what
is written down may name addresses: they stay whose they were for as long as the arena lives. Work
whose course hangs on numbers, or on chance, is refused, as all that cannot be done again.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from shardline.kernels import DONE, added, call, can_add, watched

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

__all__ = ["Arena", "Recording", "aside", "repeat"]

LEAST_BYTES: Final = mmap.PAGESIZE
_aten: Any = torch.ops.aten
EMPTY: Final = frozenset(
    {
        _aten.empty.memory_format,
        _aten.empty_like.default,
        _aten.empty_strided.default,
        _aten.new_empty.default,
        _aten.new_empty_strided.default,
    }
)
"""What only makes room."""
SAME_MEMORY: Final = frozenset({_aten.resize_.default, _aten._unsafe_view.default})  # noqa: SLF001
"""What gives another look at memory, beside all that torch calls a view."""
FRESH: Final = _aten.lift_fresh.default
"""A tensor of Python's numbers: torch calls it a view, but of what soon nobody holds."""
_tensor: Any = torch.Tensor
READS: Final = frozenset({_tensor.tolist, _tensor.numpy, _tensor.__array__, _tensor.__dlpack__})
"""What gives numbers to Python without an operation of torch's."""
REFUSED: Final = frozenset(
    {
        torch.Tag.data_dependent_output,
        torch.Tag.dynamic_output_shape,
        torch.Tag.nondeterministic_seeded,
    }
)

Calls = list[tuple["Callable[..., Any]", tuple[Any, ...]]]


def repeat(calls: Calls) -> bool:
    """Do it again; False, and stop, where a kernel fails."""
    return all(call(function, *given) in {None, DONE} for function, given in calls)


def aside() -> AbstractContextManager[object]:
    """Within, what torch does is not written down, and makes memory of its own."""
    return cast("Any", _python_dispatch)._disable_current_modes()  # noqa: SLF001


class Arena:
    """Memory that keeps its place; what nobody holds any more is given again."""

    def __init__(self) -> None:
        self._free: dict[int, list[mmap.mmap]] = {}
        self._given: list[tuple[StorageWeakRef, mmap.mmap]] = []
        self._all: dict[int, mmap.mmap] = {}

    @property
    def memory_bytes(self) -> int:
        """Of all of it."""
        return sum(map(len, self._all.values()))

    @property
    def held(self) -> int:
        """How many pieces of it somebody holds."""
        return sum(not storage.expired() for storage, _ in self._given)

    def like(self, tensor: torch.Tensor) -> torch.Tensor:
        """Room for one of this type, shape, and strides."""
        shape, strides = tensor.shape, tensor.stride()
        reach = [(size - 1) * stride for size, stride in zip(shape, strides, strict=True)]
        if tensor.numel() == 0:
            return tensor
        chunk = self._take((1 + sum(reach)) * tensor.itemsize)
        found = self._on(chunk, tensor.dtype)
        self._given.append((StorageWeakRef(found.untyped_storage()), chunk))
        self._all[found.data_ptr()] = chunk
        return found.as_strided(shape, strides)

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same, here."""
        return self.like(tensor).copy_(tensor)

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether it is from here."""
        return self._chunk(tensor) is not None

    def alias(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same memory, which it does not hold; a tensor that is not from here, as it is."""
        chunk = self._chunk(tensor)
        if chunk is None:
            return tensor
        whole = self._on(chunk, tensor.dtype)
        return whole.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    def _chunk(self, tensor: torch.Tensor) -> mmap.mmap | None:
        if tensor.layout is not torch.strided or not tensor.numel():
            return None
        return self._all.get(tensor.untyped_storage().data_ptr())

    @staticmethod
    def _on(chunk: mmap.mmap, dtype: torch.dtype) -> torch.Tensor:
        return torch.frombuffer(chunk, dtype=dtype)

    def _take(self, wanted: int) -> mmap.mmap:
        held: list[tuple[StorageWeakRef, mmap.mmap]] = []
        for storage, chunk in self._given:
            if storage.expired():
                self._free.setdefault(len(chunk), []).append(chunk)
            else:
                held.append((storage, chunk))
        self._given = held
        size = max(LEAST_BYTES, 1 << (wanted - 1).bit_length())
        free = self._free.get(size)
        return free.pop() if free else mmap.mmap(-1, size)


class Recording(TorchDispatchMode):
    """Within, what torch and our kernels do is done, and written down, on this thread."""

    def __init__(self, arena: Arena) -> None:
        cast("Any", super()).__init__()
        self.calls: Calls = []
        self.refused: str | None = None
        """What cannot be done again; the calls are not all there then."""
        self._arena = arena
        self._within = contextlib.ExitStack()

    def __enter__(self) -> Recording:
        """Begin."""
        cast("Any", super()).__enter__()
        self._within.enter_context(watched(self._kernel))
        self._within.enter_context(cast("Any", _Reads(self)))
        return self

    def __exit__(self, *about: Any) -> None:
        """End."""
        self._within.close()
        cast("Any", super()).__exit__(*about)

    def _kernel(self, kernel: Callable[..., Any], given: tuple[Any, ...]) -> Any:  # noqa: ANN401
        with aside():
            found = kernel(*given)
        if found not in {None, DONE}:
            self.refused = "a kernel that failed"
        self.calls.append((kernel, tuple(map(self._alias, given))))
        return found

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401  (torch's own)
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Do what torch is about to do."""
        del types
        options = kwargs or {}
        if func is _aten.add.Tensor and not options and _is_sum(args):
            return added(*args, out=self._arena.like(args[0]))
        found = func(*args, **options)
        looks = (func.is_view and func is not FRESH) or func in SAME_MEMORY
        if self.refused or looks:
            return found
        results = cast("list[object]", tree_leaves(found))
        if not all(isinstance(one, torch.Tensor) for one in results) or REFUSED & {*func.tags}:
            self.refused = str(func)
            return found
        if func in EMPTY:
            return self._arena.like(found)
        if func._schema.is_mutable:  # noqa: SLF001  (torch's own word for it)
            return self._changed(func, args, options, found)
        placed = tree_map(self._arena.copy, found)
        targets = cast("list[torch.Tensor]", tree_leaves(self._aliases(placed)))
        given, named = self._aliases(args), self._aliases(options)
        into = _into(func)
        if into is not None and len(targets) == 1:
            self.calls.append(
                (_silent, (functools.partial(into, *given, **named, out=targets[0]),))
            )
        else:
            self.calls.append((_put, (functools.partial(func, *given, **named), targets)))
        return placed

    def _changed(
        self,
        func: Any,  # noqa: ANN401  (as above)
        args: tuple[Any, ...],
        options: dict[str, Any],
        found: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """What changes memory of ours; another's is not as it was when this is done again."""
        named = dict(zip((one.name for one in func._schema.arguments), args, strict=False))  # noqa: SLF001
        written = (
            (named | options).get(one.name)
            for one in func._schema.arguments  # noqa: SLF001
            if one.alias_info is not None and one.alias_info.is_write
        )
        if not all(isinstance(one, torch.Tensor) and self._arena.holds(one) for one in written):
            self.refused = f"{func} of what is kept elsewhere"
        again = functools.partial(func, *self._aliases(args), **self._aliases(options))
        self.calls.append((_silent, (again,)))
        return found

    def _aliases(self, tree: Any) -> Any:  # noqa: ANN401  (of torch's)
        return tree_map(self._alias, tree)

    def _alias(self, leaf: object) -> object:
        return self._arena.alias(leaf) if isinstance(leaf, torch.Tensor) else leaf


class _Reads(TorchFunctionMode):
    """Within, it is refused that Python reads a tensor's numbers, of which torch tells nothing."""

    def __init__(self, recording: Recording) -> None:
        cast("Any", super()).__init__()
        self._recording = recording

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401  (torch's own)
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Do what is about to be done."""
        del types
        if func in READS:
            self._recording.refused = str(func)
        return func(*args, **(kwargs or {}))


@functools.cache
def _into(func: Any) -> Any:  # noqa: ANN401  (torch's own)
    """The same operation, with a place for its result; None if there is no such."""
    packet = func.overloadpacket
    others = (getattr(packet, name) for name in packet.overloads())
    wanted = [*_takes(func), ("out", "Tensor")]
    return next((one for one in others if _takes(one) == wanted), None)


def _takes(func: Any) -> list[tuple[str, str]]:  # noqa: ANN401  (as above)
    """Names and types: of several operations with a place, a number is not for each."""
    return [(one.name, str(one.type)) for one in func._schema.arguments]  # noqa: SLF001


def _is_sum(given: tuple[Any, ...]) -> bool:
    """Whether our kernel does it: torch's own takes longer to ask."""
    return all(isinstance(one, torch.Tensor) for one in given) and can_add(*given)


def _silent(again: Callable[[], Any]) -> None:
    again()


def _put(again: Callable[[], Any], targets: Sequence[torch.Tensor]) -> None:
    """The results, where they were the first time."""
    for target, result in zip(targets, tree_leaves(again()), strict=True):
        target.copy_(result)
