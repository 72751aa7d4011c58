"""How weights lie: in panels of 32 outputs, for each step the inputs that 4 bytes hold."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from math import nan
from typing import TYPE_CHECKING, Final

import torch

from shardline.kernels.calling import DONE, call
from shardline.kernels.code import OUTPUTS
from shardline.kernels.company import in_company
from shardline.kernels.compiling import compiled, functions
from shardline.kernels.memory import lasting

if TYPE_CHECKING:
    from shardline.kernels.arithmetic import Arithmetic

__all__ = ["Held", "Otherwise", "in_panels", "of_panels", "takes"]

BEYOND: Final = 0
"""What a product tells that met an input beyond what it was told."""
Otherwise = Callable[[torch.Tensor], torch.Tensor]
"""Of the same rows, the same outputs."""


class Held:
    """A weight in panels, what its outputs have besides, and products with it."""

    def __init__(
        self, panels: torch.Tensor, beside: torch.Tensor, stretch: int, arithmetic: Arithmetic
    ) -> None:
        count, steps, outputs, each = panels.shape
        self.outputs, self.inputs = count * outputs, steps * each
        self._panels, self._beside = panels, beside
        fields = panels.data_ptr(), beside.data_ptr(), count, steps, stretch // each
        self._fields = (ctypes.c_int64 * len(fields))(*fields)
        self._fields_at = ctypes.addressof(self._fields)
        self._products = functions(arithmetic)

    def _times(
        self, x: torch.Tensor, most: float = nan, otherwise: Otherwise | None = None
    ) -> torch.Tensor:
        """Rows (…, inputs) -> (…, outputs); `otherwise` if an input is larger than `most`."""
        *before, inputs = x.shape
        product = self._products.get(x.dtype)
        if inputs != self.inputs or product is None:
            wanted = "floats" if len(self._products) > 1 else "bfloat16"
            raise ValueError(f"{x.dtype} rows of {inputs}, not {wanted} of {self.inputs}")
        rows = x.numel() // inputs
        many, x = in_company(rows), x.contiguous()
        shape = (*before, self.outputs)
        out = x.new_empty(shape if many == rows else (many, self.outputs))
        if rows:
            sizes = rows, many, most, torch.get_num_threads()
            if otherwise is None:
                places = self._fields_at, x.data_ptr(), out.data_ptr()
                done = call(product, *places, *sizes)
            else:
                done = call(self._perhaps, x, out, otherwise, *sizes)
            if done != DONE:
                raise MemoryError(f"no room to lay {rows} rows of {inputs}")
        return out if many == rows else out.resize_(shape)

    def _perhaps(  # noqa: PLR0913, PLR0917  (as the product has them)
        self,
        x: torch.Tensor,
        out: torch.Tensor,
        otherwise: Otherwise,
        rows: int,
        many: int,
        most: float,
        threads: int,
    ) -> int:
        """The product or, where an input is beyond, what stands for it."""
        places = self._fields_at, x.data_ptr(), out.data_ptr()
        done = self._products[x.dtype](*places, rows, many, most, threads)
        if done != BEYOND:
            return done
        out.view(many, -1)[:rows] = otherwise(x).view(rows, -1)
        return DONE


def takes(weights: torch.Tensor, arithmetic: Arithmetic) -> bool:
    """Whether these (outputs, inputs) can be held so here: whole panels of whole steps."""
    outputs, inputs = weights.shape
    whole = outputs % OUTPUTS == 0 and inputs % arithmetic.inputs == 0 and weights.numel() > 0
    here = weights.device.type == "cpu" and weights.dtype == getattr(torch, arithmetic.weights)
    return whole and here and compiled(arithmetic) is not None


def in_panels(weights: torch.Tensor, arithmetic: Arithmetic) -> torch.Tensor:
    """(outputs, inputs) -> (panels, steps, outputs of a panel, inputs of a step), in memory."""
    outputs, inputs = weights.shape
    each = outputs // OUTPUTS, OUTPUTS, inputs // arithmetic.inputs, arithmetic.inputs
    return lasting(weights.reshape(each).transpose(1, 2))


def of_panels(panels: torch.Tensor) -> torch.Tensor:
    """The other way round, copied."""
    count, steps, outputs, inputs = panels.shape
    return panels.transpose(1, 2).reshape(count * outputs, steps * inputs)
