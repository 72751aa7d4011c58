"""From LLVM's text to functions of this process, for the processor that it runs on."""

from __future__ import annotations

import ctypes
import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from shardline.kernels.code import source
from shardline.kernels.spreading import THREADS

if TYPE_CHECKING:
    from shardline.kernels.arithmetic import Arithmetic

__all__ = ["ANY", "Engine", "Product", "compiled", "engine_of", "functions"]

ANY: Final = "sse2"
"""What each processor of this kind has."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What became of a text."""

    held: Any

    def function(self, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:  # noqa: ANN401  (types of C)
        """A function of it, which keeps its memory as long as it is called."""
        found: Any = ctypes.CFUNCTYPE(result, *arguments)(self.held.get_function_address(name))
        found.engine = self.held
        return found


def engine_of(text: str, needed: str = ANY, better: str | None = None) -> Engine | None:
    """The text's functions; None where the processor lacks what is needed, or has better."""
    try:
        llvm: Any = importlib.import_module("llvmlite.binding")
    except ImportError:  # not installed where we have no use for it
        return None
    features, pool = llvm.get_host_cpu_features(), _pool()
    if pool is None or not features.get(needed) or (better and features.get(better)):
        return None
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    for name in THREADS:
        llvm.add_symbol(name, ctypes.cast(getattr(pool, name), ctypes.c_void_p).value)
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=3
    )
    module = llvm.parse_assembly(text)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return Engine(engine)


def _pool() -> ctypes.CDLL | None:
    """The library whose threads torch uses, which is loaded already: GNU's, on Linux."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        return ctypes.CDLL(str(path))
    return None


Product = Callable[[Any, int, int, int, int, float, int], int]
"""Of what is held of a weight, rows at an address, and outputs: so many rows, made so many, none
with an input beyond the next (NAN: any), on so many threads. 1, or 0 where one is beyond."""


@functools.cache
def compiled(arithmetic: Arithmetic) -> dict[torch.dtype, Product] | None:
    """Products with rows of each type; None where the processor is none that they are for."""
    engine = engine_of(source(arithmetic), arithmetic.needed, arithmetic.better)
    if engine is None:
        return None
    sizes = ctypes.c_int64, ctypes.c_int64, ctypes.c_float, ctypes.c_int
    kinds = ctypes.c_int, *3 * [ctypes.c_void_p], *sizes
    return {
        getattr(torch, name): engine.function(f"product.{name}", *kinds) for name in arithmetic.rows
    }


def functions(arithmetic: Arithmetic) -> dict[torch.dtype, Product]:
    """Products; raises ValueError where there are none."""
    found = compiled(arithmetic)
    if found is None:
        raise ValueError("this processor is none that the product is for")
    return found
