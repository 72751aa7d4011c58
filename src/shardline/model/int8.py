"""8-bit weights and inputs by mixed matrix decomposition: LLM.int8() (PAPER section 5).

Rows of inputs and rows of weights are scaled by their largest magnitudes and multiplied in 8 bits,
exactly, in integers. Inputs beyond a threshold would leave the others of their row few of the 255
steps, so they are left out of that and multiplied in 16 bits, by columns that wait on disk.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import torch

from shardline.kernels import Panels8
from shardline.model.weights import EXACT

if TYPE_CHECKING:
    from shardline.model.weights import Product

__all__ = ["THRESHOLD", "MixedInt8", "quantise_rows"]

THRESHOLD: Final = 6.0
"""The source's. Lower is more exact and slower: more columns are multiplied in 16 bits."""
STEPS: Final = 127
ROWS: Final = 512
"""Rows of a weight at a time, so that quantising needs little memory."""
COLUMNS: Final = 256
"""Columns in 16 bits at a time: who sends the inputs chooses how many there are."""
TINY: Final = 2.0**-100
"""The scale of a row of zeros."""
TAKEN: Final = torch.bfloat16, torch.float32
"""Dtypes of rows that are multiplied as they are."""
_torch: Any = torch


@dataclass(frozen=True, slots=True)
class MixedInt8:
    """See the module."""

    threshold: float = THRESHOLD

    @property
    def word(self) -> str:
        """See Kind."""
        return "int8" if self.threshold == THRESHOLD else f"int8@{self.threshold:g}"

    def takes(self, outputs: int, inputs: int) -> bool:
        """Any."""
        return outputs > 0 and inputs > 0

    def memory_bytes(self, outputs: int, inputs: int) -> int:
        """See Kind: codes, and each output's scale and sum. The columns in 16 bits are on disk."""
        return outputs * inputs + outputs * (torch.float32.itemsize + torch.int32.itemsize)

    def quantise(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """Codes, the scale of each output, and all columns in 16 bits one after the other."""
        codes, scale = quantise_rows(weight, torch.float32)
        return {"codes": codes, "scale": scale, EXACT: weight.t().to(torch.bfloat16).contiguous()}

    def ready(self, tensors: dict[str, torch.Tensor]) -> Product:
        """See Kind. Without the columns, what lies beyond the threshold is in 8 bits of its own."""
        codes, scale, exact = tensors["codes"], tensors["scale"], tensors.get(EXACT)
        outputs, inputs = codes.shape
        if exact is not None and exact.shape != (inputs, outputs):
            raise ValueError(f"columns of shape {tuple(exact.shape)} for {outputs} x {inputs}")
        held_bytes = self.memory_bytes(outputs, inputs)
        return _Mixed(_in_8_bits(codes, scale), exact, self.threshold, held_bytes)


def quantise_rows(
    weight: torch.Tensor, scale_dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes from -127 to 127 and each row's scale."""
    codes = torch.empty(weight.shape, dtype=torch.int8)
    scale = torch.empty(len(weight), dtype=scale_dtype)
    for start in range(0, len(weight), ROWS):
        rows = weight[start : start + ROWS].float()
        part = (rows.abs().amax(1) / STEPS).clamp_(min=TINY).to(scale_dtype)
        steps = (rows / part.float()[:, None]).round_().clamp_(-STEPS, STEPS)
        codes[start : start + ROWS] = steps.to(torch.int8)
        scale[start : start + ROWS] = part
    return codes, scale


Rows = Callable[[torch.Tensor], torch.Tensor]
"""A product of rows."""


@runtime_checkable
class _In8Bits(Protocol):
    """A weight in 8 bits; every way to multiply by it gives the same bits."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Rows in bfloat16 or float32, quantised, times the weight, in their dtype."""
        ...

    def within(self, x: torch.Tensor, most: float, otherwise: Rows) -> torch.Tensor:
        """The same; `otherwise` of all rows if an input is larger than `most`, or no number."""
        ...


class _Mixed:
    """See the module."""

    def __init__(
        self, in_8_bits: _In8Bits, exact: torch.Tensor | None, threshold: float, memory_bytes: int
    ) -> None:
        self.memory_bytes = memory_bytes
        self._in_8_bits = in_8_bits
        self._exact = exact
        self._threshold = threshold

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rows = x if x.dtype in TAKEN else x.float()
        return self._in_8_bits.within(rows, self._threshold, self._decomposed).to(x.dtype)

    def _decomposed(self, x: torch.Tensor) -> torch.Tensor:
        """What lies beyond, row by row: a row's result does not depend on the rows beside it."""
        rows = x.float()
        beyond = ~(rows.abs() <= self._threshold)  # NaN is beyond too, and is found in the result
        within = rows.masked_fill(beyond, 0.0)
        y = self._in_8_bits(within)
        if self._exact is None:
            return y.add_(self._in_8_bits(rows - within))
        outside = rows - within
        columns = beyond.any(0).nonzero()[:, 0]
        for start in range(0, len(columns), COLUMNS):
            some = columns[start : start + COLUMNS]
            y.addmm_(outside[:, some], self._exact[some].float())
        return y


class _ByTorch:
    """Quantised by torch, and multiplied in whole numbers by one of its kernels."""

    def __init__(self, exactly: Rows) -> None:
        self._exactly = exactly

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See _In8Bits."""
        rows = x.float()
        return self._times(rows, rows.abs().amax(-1, keepdim=True)).to(x.dtype)

    def within(self, x: torch.Tensor, most: float, otherwise: Rows) -> torch.Tensor:
        """See _In8Bits."""
        rows = x.float()
        peaks = rows.abs().amax(-1, keepdim=True)
        if x.numel() and not peaks.max().item() <= most:
            return otherwise(x).to(x.dtype)
        return self._times(rows, peaks).to(x.dtype)

    def _times(self, rows: torch.Tensor, peaks: torch.Tensor) -> torch.Tensor:
        scale = peaks.div(STEPS).clamp_(min=TINY)
        return self._exactly((rows / scale).round_()).mul_(scale)


def _in_8_bits(codes: torch.Tensor, scale: torch.Tensor) -> _In8Bits:
    if Panels8.takes(codes):
        return Panels8(codes, scale)
    return _ByTorch(_packed(codes, scale) if _can_pack() else _plain(codes, scale))


def _plain(codes: torch.Tensor, scale: torch.Tensor) -> Rows:
    """By torch's integer product, which most processors have."""

    def times(steps: torch.Tensor) -> torch.Tensor:
        whole = steps.nan_to_num(STEPS).to(torch.int8)  # as FBGEMM has it
        # As a view: a transposed copy is slower by half.
        return _torch._int_mm(whole, codes.t()) * scale  # noqa: SLF001

    return times


@functools.cache
def _can_pack() -> bool:
    """Whether FBGEMM is here and sums exactly: without VNNI its 16-bit sums overflow."""
    engine = _torch.backends.quantized.engine
    return engine in {"x86", "fbgemm"} and bool(_torch.cpu._is_vnni_supported())  # noqa: SLF001


def _packed(codes: torch.Tensor, scale: torch.Tensor) -> Rows:
    """By FBGEMM on weights in its own order: two to four times as fast as `_plain`."""
    zeros = torch.zeros(len(codes), dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this torch warns that a later one will drop the format
        weight = _torch._make_per_channel_quantized_tensor(  # noqa: SLF001
            codes, scale.double(), zeros, 0
        )
        packed = _torch.ops.quantized.linear_prepack(weight, None)
    multiply = _torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
    return lambda steps: multiply(steps, 1.0, STEPS + 1, packed)
