"""From LLVM's text to functions of this process, for the processor that it runs on."""

from __future__ import annotations

import ctypes
import functools
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from shardline.kernels.code import source

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardline.kernels.arithmetic import Arithmetic

__all__ = ["Compiled", "compiled", "functions"]


@dataclass(frozen=True, slots=True)
class Compiled:
    """The functions; hold on to this as long as they are called: `held` keeps their memory."""

    product: Callable[[Any], None]
    """Run a job on as many threads as torch has, its own."""
    lay: dict[torch.dtype, Callable[[int, int, int, int, int, int], float]]
    """Rows of a type, at an address, into tiles at another; what rows have goes to a third. So many
    rows, made so many, of so many steps. Gives the largest magnitude where these are looked at."""
    held: object


@functools.cache
def compiled(arithmetic: Arithmetic) -> Compiled | None:
    """The functions; None where the processor, or the system, is none that they are for."""
    try:
        llvm: Any = importlib.import_module("llvmlite.binding")
    except ImportError:  # not installed where we have no use for it
        return None
    features = llvm.get_host_cpu_features()
    pool = _pool()
    if pool is None or not features.get(arithmetic.needed):
        return None
    if arithmetic.better is not None and features.get(arithmetic.better):
        return None
    return _compile(llvm, pool, arithmetic)


def functions(arithmetic: Arithmetic) -> Compiled:
    """The functions; raises ValueError where there are none."""
    found = compiled(arithmetic)
    if found is None:
        raise ValueError("this processor is none that the product is for")
    return found


def _pool() -> ctypes.CDLL | None:
    """The library whose threads torch uses, which is loaded already: GNU's, on Linux."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        return ctypes.CDLL(str(path))
    return None


def _compile(llvm: Any, pool: ctypes.CDLL, arithmetic: Arithmetic) -> Compiled:  # noqa: ANN401  (untyped library)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    for name in ("omp_get_num_threads", "omp_get_thread_num"):
        llvm.add_symbol(name, ctypes.cast(getattr(pool, name), ctypes.c_void_p).value)
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
    )
    module = llvm.parse_assembly(source(arithmetic))
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    alone = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(engine.get_function_address("alone"))
    part = ctypes.c_void_p(engine.get_function_address("part"))
    laying = ctypes.CFUNCTYPE(ctypes.c_float, *3 * [ctypes.c_void_p], *3 * [ctypes.c_int64])
    lay = {
        getattr(torch, name): laying(engine.get_function_address(f"lay.{name}"))
        for name in arithmetic.rows
    }
    parallel = pool.GOMP_parallel
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None

    def product(job: Any) -> None:  # noqa: ANN401  (an array of ctypes)
        threads = torch.get_num_threads()
        if threads == 1:
            alone(job)
        else:
            parallel(part, job, threads, 0)

    return Compiled(product, lay, engine)
