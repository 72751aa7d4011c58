"""A network's state in sixty numbers: what the nearest precomputed scheme is found by (PAPER 3).

The paper compares states by persistent homology. Ours holds, for round trips and for transfer
times: the H0 and H1 diagrams, cut to a fixed size, and beside them the plain distribution of the
distances (what each adds: docs/decisions/0012). All of it is relative to the mean distance, so
two networks of one form are alike at any scale; scale and size are fields of their own.

H0 bars as quantiles make their difference the 1-Wasserstein distance, but for the grid. If every
distance changes by at most a factor 1 + e, every quantile does, and a bar of H1 changes by at most
2e of its end. No name enters anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from math import log
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import Meta

from shardline.core.errors import BadInput
from shardline.topology.homology import diagrams

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from shardline.topology.links import LinkMatrix

__all__ = [
    "Fingerprint",
    "Shape",
    "Weights",
    "distance",
    "distances",
    "fingerprint",
    "nearest",
    "shape_of",
]

QUANTILES: Final = 12
RINGS: Final = 6
FAR: Final = 10.0
"""Distances beyond so many means count as this: one dead link is not the network's form."""

_Relative = Annotated[float, Meta(ge=0, le=FAR)]
_Quantiles = Annotated[tuple[_Relative, ...], Meta(min_length=QUANTILES, max_length=QUANTILES)]
_Rings = Annotated[tuple[_Relative, ...], Meta(min_length=RINGS, max_length=RINGS)]


class Shape(msgspec.Struct, frozen=True):
    """The form of one distance matrix, in means of it."""

    scale: Annotated[float, Meta(gt=0, le=1e12)]
    """The mean distance, in its own unit. (A median jumps where two clusters are of one size.)"""
    pairs: _Quantiles
    """Quantiles of all distances, from the least to the greatest."""
    parts: _Quantiles
    """Quantiles of where H0 bars end."""
    rings: _Rings
    """Lengths of the longest H1 bars."""


class Fingerprint(msgspec.Struct, frozen=True):
    """A network's state; `as_json` and `from_json` keep it."""

    nodes: Annotated[int, Meta(ge=2, le=2**20)]
    rtt: Shape
    """Of round trips, in ms."""
    transfer: Shape
    """Of 1/bandwidth, in ms a MiB."""

    def as_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built

    @classmethod
    def from_json(cls, data: object) -> Fingerprint:
        """What `as_json` gave; raises BadInput."""
        try:
            return msgspec.convert(data, cls, strict=False)
        except msgspec.ValidationError as error:
            raise BadInput(f"no fingerprint of a network: {error}") from None


@dataclass(frozen=True, slots=True)
class Weights:
    """What counts between two fingerprints. Forms alone: scale and size 0."""

    pairs: float = 1.0
    parts: float = 1.0
    rings: float = 1.0
    transfer: float = 0.25
    """The form of transfer times against that of round trips."""
    scale: float = 0.1
    """Of a factor e between the means."""
    size: float = 0.1
    """Of a factor e between the numbers of nodes."""


_WEIGHTS: Final = Weights()


def _grid(values: NDArray[np.float64], scale: float) -> tuple[float, ...]:
    found = np.quantile(values, np.linspace(0.0, 1.0, QUANTILES)) / scale
    return tuple(np.minimum(found, FAR).tolist())


def shape_of(distances: NDArray[np.float64]) -> Shape:
    """The form of symmetric distances between at least two nodes; raises ValueError."""
    n = len(distances)
    if n < 2:  # noqa: PLR2004 - two nodes make a distance
        raise ValueError("one node has no form")
    pairs = distances[np.triu_indices(n, 1)]
    found = diagrams(distances)
    scale = max(float(pairs.mean()), 1e-9)
    bars = np.sort(found.h1[:, 1] - found.h1[:, 0])[::-1][:RINGS] / scale
    rings = np.minimum(np.pad(bars, (0, RINGS - len(bars))), FAR)
    return Shape(scale, _grid(pairs, scale), _grid(found.h0[:, 1], scale), tuple(rings.tolist()))


def fingerprint(links: LinkMatrix) -> Fingerprint:
    """The state of a network of at least two nodes; raises ValueError for fewer."""
    rtt, transfer = shape_of(links.rtt_ms), shape_of(links.ms_per_mib())
    return Fingerprint(len(links.nodes), rtt, transfer)


def _numbers(state: Fingerprint) -> list[float]:
    shapes = (
        (log(shape.scale), *shape.pairs, *shape.parts, *shape.rings)
        for shape in (state.rtt, state.transfer)
    )
    return [log(state.nodes), *chain.from_iterable(shapes)]


def _counts(weights: Weights) -> list[float]:
    """What a difference of each of `_numbers` counts."""
    shape = [
        weights.scale,
        *QUANTILES * [weights.pairs / QUANTILES],
        *QUANTILES * [weights.parts / QUANTILES],
        *RINGS * [weights.rings / RINGS],
    ]
    return [weights.size, *shape, *(weights.transfer * each for each in shape)]


def distances(
    state: Fingerprint, others: Sequence[Fingerprint], weights: Weights = _WEIGHTS
) -> NDArray[np.float64]:
    """`distance` from one state to each of the others."""
    table = np.array([_numbers(other) for other in (state, *others)])
    found: NDArray[np.float64] = np.abs(table[1:] - table[0]) @ np.array(_counts(weights))
    return found


def distance(left: Fingerprint, right: Fingerprint, weights: Weights = _WEIGHTS) -> float:
    """How unlike two states are: 0 for equal ones, symmetric, and no detour is shorter."""
    return float(distances(left, [right], weights)[0])


def nearest(
    state: Fingerprint, stored: Mapping[str, Fingerprint], weights: Weights = _WEIGHTS
) -> tuple[str, float]:
    """The name of the stored state most like this one, and how unlike it is. Raises ValueError if
    nothing is stored."""
    if not stored:
        raise ValueError("no states are stored")
    found = distances(state, list(stored.values()), weights).tolist()
    apart, name = min(zip(found, stored, strict=True))
    return name, apart
