"""The link matrix: what is known of every link, from whom, how old, and how sure (PAPER section 3).

Nodes report round trips to some others, now and then, and two ends of one link disagree. Reports of
one link are averaged on a logarithmic scale, a newer one counting for more. Links that nobody
measured are estimated (`estimates`). Every entry carries its error bar as a factor: the truth lies
within [value / factor, value * factor] for at least COVERAGE of the entries. For estimates that
factor is not believed but measured: links are held out in turn, estimated from the rest, and the
factor is the COVERAGE quantile of what was missed (split conformal prediction), wider for nodes
whose links are missed by more. It holds as far as the links that are measured are drawn like those
that are not: a node that reports only its nearest makes the bars too short.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite
from typing import TYPE_CHECKING, Final

import numpy as np

from shardline.core.errors import BadInput
from shardline.topology.estimates import fit_rates, fit_rtt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["COVERAGE", "NODES_MAX", "LinkMatrix", "Probe", "link_matrix"]

NODES_MAX: Final = 2_048
"""A matrix of this many nodes takes 150 MB in all; more is another room's problem."""
COVERAGE: Final = 0.9
NO_ANSWER_MS: Final = 10_000.0
"""What a probe without an answer counts as, and the longest that any counts as."""
RTT_MIN_MS: Final = 0.01
RTT_UNKNOWN_MS: Final = 50.0
"""Where nothing at all is measured: as routing guesses."""
RATE_UNKNOWN: Final = 1e6
"""Bytes/s, likewise."""
UNKNOWN_FACTOR: Final = 30.0
"""The error bar of a link about which no measurement says anything."""
HALF_LIFE_S: Final = 60.0
"""A report this much older than another of the same link counts half. Shorter follows changes
sooner and averages less."""
NOISE: Final = 0.1
"""Deviation of one report's logarithm, until enough links have two reports to tell."""
DRIFT: Final = 0.3
"""Deviation of a link's logarithm after an hour; it grows with the square root of the time."""
FOLDS: Final = 3
"""Parts that are held out in turn; more is slower and takes less from each fit."""
_PAIRS_MIN = 20
_Z = 1.645
"""COVERAGE of a normal distribution."""
_SHRINK = 3.0


@dataclass(frozen=True, slots=True)
class Probe:
    """What one node measured of one link. Raises ValueError for what no link can be."""

    source: str
    target: str
    rtt_ms: float | None = None
    """Infinity: asked, and no answer came."""
    bytes_per_s: float | None = None
    """From source to target."""
    age_s: float = 0.0

    def __post_init__(self) -> None:
        if self.source == self.target:
            raise ValueError(f"{self.source} measured itself")
        if self.rtt_ms is not None and not self.rtt_ms >= 0:
            raise ValueError(f"a round trip of {self.rtt_ms} ms")
        if self.bytes_per_s is not None and not 0 < self.bytes_per_s < inf:
            raise ValueError(f"a link of {self.bytes_per_s} bytes/s")
        if not 0 <= self.age_s < inf:
            raise ValueError(f"a measurement {self.age_s} s old")


@dataclass(frozen=True, slots=True)
class LinkMatrix:
    """Every link of a swarm; arrays are n x n in the order of `nodes`, which is sorted."""

    nodes: tuple[str, ...]
    rtt_ms: NDArray[np.float64]
    """Symmetric, zero on the diagonal."""
    rtt_factor: NDArray[np.float64]
    measured: NDArray[np.bool_]
    """Where somebody measured the round trip; symmetric."""
    age_s: NDArray[np.float64]
    """Of the newest measurement of the round trip; infinite where there is none."""
    bytes_per_s: NDArray[np.float64]
    """From row to column; infinite on the diagonal."""
    rate_factor: NDArray[np.float64]
    rate_measured: NDArray[np.bool_]
    rtt_missed: float
    """Median relative error of round trips that were held out; NaN if too few were measured."""
    rate_missed: float

    def cautious_ms(self) -> NDArray[np.float64]:
        """Round trips as they are at worst: no guess joins what no measurement joins."""
        return self.rtt_ms * np.where(self.measured, 1.0, self.rtt_factor)

    def ms_per_mib(self) -> NDArray[np.float64]:
        """How long a MiB takes in the worse direction: 1/bandwidth as a distance. Symmetric."""
        worse = np.minimum(self.bytes_per_s, self.bytes_per_s.T)
        return 1e3 * 2**20 / worse


def link_matrix(nodes: Sequence[str], probes: Iterable[Probe]) -> LinkMatrix:
    """What is known of every link between these nodes; probes of others are passed over.

    Raises BadInput for more than NODES_MAX nodes, for none, or for one named twice.
    """
    names = tuple(sorted(nodes))
    if not 0 < len(names) <= NODES_MAX:
        raise BadInput(f"a link matrix of {len(names)} nodes: 1 to {NODES_MAX} are possible")
    if len(set(names)) < len(names):
        raise BadInput("a node is named twice")
    place = {name: index for index, name in enumerate(names)}
    ours = [probe for probe in probes if probe.source in place and probe.target in place]
    trips = [
        (place[min(p.source, p.target)], place[max(p.source, p.target)], p.rtt_ms, p.age_s)
        for p in ours
        if p.rtt_ms is not None
    ]
    flows = [
        (place[p.source], place[p.target], p.bytes_per_s, p.age_s)
        for p in ours
        if p.bytes_per_s is not None
    ]
    rtt = _merge(len(names), trips, RTT_MIN_MS, NO_ANSWER_MS)
    rtt = _Merged(*(np.fmin(part, part.T) for part in (rtt.value, rtt.factor, rtt.age_s)))
    rtt_ms, rtt_factor, rtt_missed = _complete(rtt, fit_rtt, _symmetric_folds, RTT_UNKNOWN_MS)
    rate = _merge(len(names), flows, 1.0, 1e12)
    bytes_per_s, rate_factor, rate_missed = _complete(rate, fit_rates, _folds, RATE_UNKNOWN)
    for array, own in ((rtt_ms, 0.0), (rtt_factor, 1.0), (bytes_per_s, inf), (rate_factor, 1.0)):
        np.fill_diagonal(array, own)
    measured, age_s = ~np.isnan(rtt.value), np.where(np.isnan(rtt.age_s), inf, rtt.age_s)
    rate_measured = ~np.isnan(rate.value)
    arrays = (rtt_ms, rtt_factor, measured, age_s, bytes_per_s, rate_factor, rate_measured)
    for array in arrays:
        array.flags.writeable = False
    return LinkMatrix(names, *arrays, rtt_missed, rate_missed)


@dataclass(frozen=True, slots=True)
class _Merged:
    """All reports of a link as one; NaN where there is none."""

    value: Floats
    factor: Floats
    age_s: Floats


def _merge(
    n: int, reports: Sequence[tuple[int, int, float, float]], least: float, most: float
) -> _Merged:
    """The weighted mean of each link's reports, on a logarithmic scale."""
    table = np.array(reports, dtype=np.float64).reshape(-1, 4)
    # Sums must not depend on the order in which reports came.
    table = table[np.lexsort(table.T[::-1])]
    links = (table[:, 0] * n + table[:, 1]).astype(np.int64)
    logs = np.log(np.clip(table[:, 2], least, most))
    ages_s = table[:, 3]
    newest_s = np.full(n * n, inf)
    np.minimum.at(newest_s, links, ages_s)
    weights = 0.5 ** ((ages_s - newest_s[links]) / HALF_LIFE_S)
    total = np.bincount(links, weights, n * n)
    squares = np.bincount(links, weights**2, n * n)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(links, weights * logs, n * n) / total
        luck = _noise(links, logs - mean[links], n * n) ** 2 * squares / total**2
        spread = np.sqrt(luck + DRIFT**2 * newest_s / 3600.0)
    newest_s = np.where(np.isfinite(newest_s), newest_s, np.nan)
    value, factor = np.exp(mean), np.exp(_Z * spread)
    return _Merged(value.reshape(n, n), factor.reshape(n, n), newest_s.reshape(n, n))


def _noise(links: NDArray[np.int64], residuals: Floats, size: int) -> float:
    """Deviation of a report, from how far the reports of one link lie from their mean."""
    count = np.bincount(links, minlength=size)[links]
    twice = count > 1
    if twice.sum() < 2 * _PAIRS_MIN:
        return NOISE
    rescaled = np.abs(residuals[twice]) * np.sqrt(count[twice] / (count[twice] - 1))
    return float(np.median(rescaled)) / 0.6745


def _folds(value: Floats) -> NDArray[np.int64]:
    """Which part each measured link belongs to, by the order of the values: whatever the nodes are
    called, the parts are the same, and each has its share of short and long links."""
    order = np.full(value.shape, -1, dtype=np.int64)
    seen = np.flatnonzero(~np.isnan(value))
    ranks = np.argsort(np.argsort(value.ravel()[seen], kind="stable"), kind="stable")
    order.ravel()[seen] = ranks % FOLDS
    return order


def _symmetric_folds(value: Floats) -> NDArray[np.int64]:
    upper = np.where(np.triu(np.ones(value.shape, dtype=bool), 1), value, np.nan)
    folds = _folds(upper)
    return np.maximum(folds, folds.T)


def _complete(
    merged: _Merged,
    fit: Callable[[Floats], Floats],
    folds_of: Callable[[Floats], NDArray[np.int64]],
    unknown: float,
) -> tuple[Floats, Floats, float]:
    """Values, factors and the median relative error of what was held out."""
    value = merged.value
    seen = ~np.isnan(value)
    if not seen.any():
        return np.full(value.shape, unknown), np.full(value.shape, UNKNOWN_FACTOR), np.nan
    folds = folds_of(value)
    missed = np.full(value.shape, np.nan)
    for fold in range(FOLDS):
        held = folds == fold
        kept = np.where(held, np.nan, value)
        if held.any() and not np.isnan(kept).all():
            there = held & _reachable(kept)
            missed[there] = np.abs(np.log(fit(kept)[there] / value[there]))
    guess = fit(value)
    told = _reachable(value) & ~np.isnan(guess)
    guess = np.where(told, guess, np.exp(np.nanmedian(np.log(value))))
    factor = np.where(told, _factors(missed), UNKNOWN_FACTOR)
    known = missed[~np.isnan(missed)]
    error = float(np.expm1(np.median(known))) if len(known) >= _PAIRS_MIN else np.nan
    return np.where(seen, value, guess), np.where(seen, merged.factor, factor), error


def _reachable(value: Floats) -> NDArray[np.bool_]:
    """Where a chain of measurements, in whichever direction, joins the two."""
    seen = ~np.isnan(value)
    seen |= seen.T
    part = np.full(len(value), -1)
    for start in range(len(value)):
        edge = (np.arange(len(value)) == start) & (part < 0)
        while edge.any():
            part[edge] = start
            edge = seen[edge].any(axis=0) & (part < 0)
    return part[:, None] == part[None, :]


def _factors(missed: Floats) -> Floats:
    """Error bars of estimates from what was missed when links were held out (NaN: they were not).

    Each is in proportion to how far its two nodes' links were missed.
    """
    known = ~np.isnan(missed)
    count = known.sum()
    if count < _PAIRS_MIN:
        return np.full(missed.shape, UNKNOWN_FACTOR)
    size = np.where(known, missed, 0.0)
    mean = size.sum() / count
    both = size.sum(axis=0) + size.sum(axis=1)
    own = (both + _SHRINK * mean) / (known.sum(axis=0) + known.sum(axis=1) + _SHRINK)
    scale = np.sqrt(own[:, None] * own[None, :]) + 1e-9
    rank = min(1.0, COVERAGE * (1.0 + 1.0 / count))
    width = float(np.quantile((missed / scale)[known], rank))
    factor = np.exp(np.minimum(width * scale, np.log(UNKNOWN_FACTOR)))
    return factor if isfinite(width) else np.full(missed.shape, UNKNOWN_FACTOR)
