"""Layers whose weights are held in fewer bits, and the port that a way to do so implements.

A kind turns a matrix into tensors once (`quantise`), which are kept on disk, and makes of these,
at every start, something that multiplies (`ready`). What is not a plain matrix product stays as
it is (PAPER section 5). Shapes: m rows of inputs, k inputs, n outputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EXACT", "Kind", "Product", "QuantisedExperts", "QuantisedLinear"]

EXACT: Final = "exact"
"""The name of a tensor that stays on disk: it is mapped, and read where it is asked for."""


@runtime_checkable
@runtime_checkable
class Product(Protocol):
    """A weight that is ready: multiplies rows, each as if it were alone."""

    @property
    def memory_bytes(self) -> int:
        """What it holds in memory."""
        ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The rows' products, in their dtype."""
        ...


@runtime_checkable
class Kind(Protocol):
    """A way to hold weights. It promises neither an error bound nor speed: see its own page."""

    @property
    def word(self) -> str:
        """Its name and, where they are not the usual ones, its settings: terms of a chain."""
        ...

    def takes(self, outputs: int, inputs: int) -> bool:
        """Whether a matrix of this shape can be held so."""
        ...

    def memory_bytes(self, outputs: int, inputs: int) -> int:
        """What such a matrix takes in memory."""
        ...

    def quantise(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """What is kept of it; equal weights give equal tensors."""
        ...

    def ready(self, tensors: dict[str, torch.Tensor]) -> Product:
        """What `quantise` made, EXACT perhaps missing; raises ValueError, KeyError for others."""
        ...


class QuantisedLinear(nn.Module):
    """In the place of an `nn.Linear`."""

    def __init__(
        self, product: Product, outputs: int, inputs: int, bias: torch.Tensor | None
    ) -> None:
        super().__init__()
        self.product = product
        self.in_features = inputs
        self.out_features = outputs
        self.bias = None if bias is None else nn.Parameter(bias)

    @property
    def memory_bytes(self) -> int:
        """Of the weight, without the bias."""
        return self.product.memory_bytes

    @property
    def weight(self) -> torch.Tensor:
        """The weight as it multiplies: slow, for models that look at a layer's weight."""
        return self.product(torch.eye(self.in_features, dtype=torch.bfloat16)).t()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the layer that it stands for."""
        rows = self.product(x.reshape(-1, self.in_features))
        y = rows.view((*x.shape[:-1], self.out_features))
        return y if self.bias is None else y + self.bias


class _Expert:
    """One expert's weight, as the second argument of `nn.functional.linear` and of nothing else."""

    def __init__(self, product: Product) -> None:
        self.product = product

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., torch.Tensor],
        types: object,
        args: tuple[torch.Tensor, _Expert],
        kwargs: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Torch asks this of whatever is given to its functions and is no tensor."""
        if function is not nn.functional.linear or kwargs or len(args) != len(("x", "weight")):
            return NotImplemented
        return args[1].product(args[0])


class QuantisedExperts(nn.Module):
    """In the place of a 3-D parameter that holds the experts' matrices one after the other."""

    def __init__(self, products: list[Product]) -> None:
        super().__init__()
        self.products = products

    @property
    def memory_bytes(self) -> int:
        """Of all experts."""
        return sum(product.memory_bytes for product in self.products)

    def __getitem__(self, expert: int | torch.Tensor) -> _Expert:
        return _Expert(self.products[int(expert)])
