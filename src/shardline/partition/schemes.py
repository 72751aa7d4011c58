"""Schemes: near-optimal plans for common states of a network, to be laid on others (PAPER 3).

The paper precomputes schemes for common topological states, and the state picks one. What a scheme
holds is ours: no node's name but the role of each stage's node (`schemes_laying`), and how near to
its bound such a network lets a plan come. It is kept by the fingerprint of its network, the caller
counted in, and by how many blocks there are for each node.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from math import log
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta

from shardline.core.errors import BadInput
from shardline.topology import Fingerprint, Shape, Weights, distances, shape_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardline.partition.problem import Problem

    Ints = NDArray[np.int64]

__all__ = ["Laid", "Library", "Scheme", "nearest_schemes", "shipped", "some_ends", "state_of"]

ROLE_LENGTH: Final = 7
STAGES_MAX: Final = 1_024
SCHEMES_MAX: Final = 4_096
STATE_ENDS_MAX: Final = 48
"""Of a larger network, so many ends are looked at: milliseconds, and H0 bars of one density."""
LOAD_WEIGHT: Final = 0.2
"""Of a factor e between blocks per node, against what `distance` counts."""
FAR_S: Final = 1_000.0
"""What no link counts as."""

_Part = Annotated[float, Meta(ge=0, le=1)]
_Role = Annotated[tuple[_Part, ...], Meta(min_length=ROLE_LENGTH, max_length=ROLE_LENGTH)]


class Laid(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What of a plan for one objective another network can use."""

    ratio: Annotated[float, Meta(ge=1, le=1e6)]
    """Its value over the quick bound (`schemes_laying.quick_bound_s`)."""
    roles: Annotated[tuple[_Role, ...], Meta(min_length=1, max_length=STAGES_MAX)]
    """Of each stage's node, in the chain's order."""


class Scheme(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Plans for one state of a network."""

    name: Annotated[str, Meta(max_length=100)]
    blocks: Annotated[int, Meta(ge=1, le=2**20)]
    state: Fingerprint
    throughput: Laid
    latency: Laid


class Library(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Schemes, in a file of JSON with a line for each."""

    schemes: Annotated[tuple[Scheme, ...], Meta(min_length=1, max_length=SCHEMES_MAX)]

    def to_bytes(self) -> bytes:
        """The file's text; equal libraries give equal bytes."""
        lines = b",\n".join(msgspec.json.encode(scheme) for scheme in self.schemes)
        return b'{"schemes": [\n' + lines + b"\n]}\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Library:
        """What `to_bytes` gave; raises BadInput."""
        try:
            return msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"no library of schemes: {error}") from None


@cache
def shipped() -> Library:
    """The library that comes with the package; `shardline plan precompute` wrote it."""
    data = resources.files("shardline.partition").joinpath("schemes.json").read_bytes()
    return Library.from_bytes(data)


def some_ends(problem: Problem, most: int) -> Ints:
    """At most so many ends, caller and nodes alike, at even steps from the middle outwards."""
    size = len(problem.nodes) + 1
    if size <= most:
        return np.arange(size)
    outwards = np.minimum(problem.delay_s, FAR_S).sum(axis=1).argsort(kind="stable")
    return np.sort(outwards[np.linspace(0, size - 1, most).astype(np.int64)])


def state_of(problem: Problem) -> Fingerprint:
    """The fingerprint of the problem's network, the caller among its ends.

    Of more than STATE_ENDS_MAX ends some stand for all.
    """
    ends = np.ix_(*2 * [some_ends(problem, STATE_ENDS_MAX)])
    delay_s, bytes_per_s = problem.delay_s[ends], problem.bytes_per_s[ends]
    rtt_ms = 1e3 * np.minimum(delay_s + delay_s.T, FAR_S)
    with np.errstate(divide="ignore"):
        ms_per_mib = 1e3 * np.minimum(2**20 / np.minimum(bytes_per_s, bytes_per_s.T), FAR_S)
    shapes: list[Shape] = []
    for matrix in (rtt_ms, ms_per_mib):
        np.fill_diagonal(matrix, 0.0)
        shapes.append(shape_of(matrix))
    return Fingerprint(len(problem.nodes) + 1, *shapes)


def nearest_schemes(
    library: Library,
    state: Fingerprint,
    blocks: int,
    count: int = 1,
    weights: Weights | None = None,
) -> list[Scheme]:
    """The schemes made for what is most like this state and load, most like first."""
    counted = weights or Weights()
    others = [scheme.state for scheme in library.schemes]
    loads = np.log([scheme.blocks / scheme.state.nodes for scheme in library.schemes])
    apart = distances(state, others, counted) + LOAD_WEIGHT * np.abs(
        loads - log(blocks / state.nodes)
    )
    most = sorted(range(len(others)), key=lambda at: (apart[at], library.schemes[at].name))
    return [library.schemes[at] for at in most[:count]]
