"""Better weights for routing, bred against simulated callers and judged on seeds nobody bred on.

Keys in [0, 1] are weights between a least and a most, on a scale of ratios or of differences; the
breeding is partition's (BRKGA, PAPER section 2), and starts from the weights of today. A run's cost
is the step time that one step in twenty exceeds, times one plus the share of tokens that were
replayed or lost: both are what churn and bad choices cost a caller.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from math import exp, log, sqrt
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from shardline.core.errors import BadInput
from shardline.partition import bred
from shardline.simulation.traffic import STRAGGLER, Flowed, Traffic, flow
from shardline.swarm import WEIGHTS, Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Chosen = tuple[Weights, float]
    """Of routing, and `Stragglers`' factor."""

__all__ = ["Compared", "Tuned", "tune"]

BRED_ON = 8
"""Seeds that weights are bred on. More takes longer and fits chance less."""
HELD_OUT = 40
GENERATIONS_MAX = 200
SURE = 2.0
"""Standard errors from the mean to each end of an interval: 95%."""
STRAGGLER_KEY = "straggler"
RANGES: dict[str, tuple[float, float, bool]] = {
    "hop_ms": (0.1, 100.0, True),
    "rtt_unknown_ms": (5.0, 500.0, True),
    "load_max": (0.0, 0.98, False),
    "queue": (0.05, 4.0, True),
    "spread": (0.005, 1.0, True),
    STRAGGLER_KEY: (1.5, 20.0, True),
}
"""Least, most, and whether by ratio. A weight that only one kind of trouble sets (nodes that have
not measured, full caches) stays: nothing here tells good values of it from bad ones."""


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """New weights beside today's on the same seeds."""

    what: str
    seeds: int
    p95_ms: float
    default_p95_ms: float
    wasted: float
    default_wasted: float
    gain: float
    """The share of today's cost that is saved, by geometric means; below 0 it is worse."""
    gain_low: float
    gain_high: float
    """Where the gain is, at 95%."""


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """What `shardline simulate tune --json` prints."""

    nodes: int
    minutes: float
    seed: int
    generations: int
    defaults: dict[str, float]
    weights: dict[str, float]
    runs: int
    """Simulated, all together."""
    bred_on: Compared
    held_out: tuple[Compared, ...]
    sure_gain: bool
    """Whether all held-out gains are above 0, surely. To adopt the weights asks for more: that the
    simulation did not make the gain (docs/decisions/0016)."""
    seconds: float


def tune(traffic: Traffic, generations: int = 4, held_out: int = HELD_OUT) -> Tuned:
    """Breed weights, then compare them with today's where they were not bred.

    Held out are other seeds of the same swarm, and seeds of one with twice the nodes and blocks.
    Raises BadInput for nonsense.
    """
    if not 0 <= generations <= GENERATIONS_MAX or held_out <= 2:  # noqa: PLR2004 - an interval's
        raise BadInput(f"--generations {generations} is not within 0:{GENERATIONS_MAX}")
    started_s = time.perf_counter()
    seeds = range(traffic.seed, traffic.seed + BRED_ON)
    fresh = range(traffic.seed + 1_000, traffic.seed + 1_000 + held_out)
    runs = 0

    def decode(keys: Floats) -> tuple[float, Chosen | None]:
        nonlocal runs
        runs += BRED_ON
        chosen = _chosen(keys)
        costs = (_log_cost(flow(replace(traffic, seed=seed), *chosen)) for seed in seeds)
        return fmean(costs), chosen

    today = (WEIGHTS, STRAGGLER)
    best = bred(
        decode, [_keys(today)], [], keys=len(RANGES), rng=np.random.default_rng(traffic.seed),
        over=lambda: False, generations=generations,
    ) or today  # fmt: skip
    large = replace(traffic, nodes=2 * traffic.nodes, blocks=2 * traffic.blocks)
    judged = [
        _compared("the seeds bred on", traffic, seeds, best),
        _compared("held-out seeds", traffic, fresh, best),
        _compared("held-out seeds, twice the nodes and blocks", large, fresh, best),
    ]
    return Tuned(
        nodes=traffic.nodes,
        minutes=traffic.minutes,
        seed=traffic.seed,
        generations=generations,
        defaults=_named(today),
        weights=_named(best),
        runs=runs + 2 * sum(one.seeds for one in judged),
        bred_on=judged[0],
        held_out=tuple(judged[1:]),
        sure_gain=all(one.gain_low > 0 for one in judged[1:]),
        seconds=round(time.perf_counter() - started_s, 1),
    )


def _named(chosen: Chosen) -> dict[str, float]:
    values = {**asdict(chosen[0]), STRAGGLER_KEY: chosen[1]}
    return {name: round(values[name], 4) for name in RANGES}


def _keys(chosen: Chosen) -> Floats:
    """Where these weights lie within their ranges."""
    keys: list[float] = []
    for name, value in _named(chosen).items():
        least, most, ratio = RANGES[name]
        part = log(value / least) / log(most / least) if ratio else (value - least) / (most - least)
        keys.append(min(max(part, 0.0), 1.0))
    return np.array(keys)


def _chosen(keys: Floats) -> Chosen:
    """The other way round."""
    values: dict[str, float] = {}
    for (name, (least, most, ratio)), key in zip(RANGES.items(), keys.tolist(), strict=True):
        value = least * (most / least) ** key if ratio else least + (most - least) * key
        values[name] = value
    straggler = values.pop(STRAGGLER_KEY)
    return replace(WEIGHTS, **values), straggler


def _log_cost(flowed: Flowed) -> float:
    """A mean of logarithms makes each seed count alike, however long its steps are."""
    return log(max(flowed.p95_ms, 1e-3) * (1 + flowed.wasted))


def _compared(what: str, traffic: Traffic, seeds: range, chosen: Chosen) -> Compared:
    """Seed by seed, so that what a seed brings for both does not blur the difference."""
    settings = [replace(traffic, seed=seed) for seed in seeds]
    now = [flow(one) for one in settings]
    new = [flow(one, *chosen) for one in settings]
    saved = [_log_cost(new[at]) - _log_cost(now[at]) for at in range(len(settings))]
    mean, error = fmean(saved), stdev(saved) / sqrt(len(saved))
    return Compared(
        what=what,
        seeds=len(settings),
        p95_ms=round(fmean(one.p95_ms for one in new), 1),
        default_p95_ms=round(fmean(one.p95_ms for one in now), 1),
        wasted=round(fmean(one.wasted for one in new), 4),
        default_wasted=round(fmean(one.wasted for one in now), 4),
        gain=round(1 - exp(mean), 4),
        gain_low=round(1 - exp(mean + SURE * error), 4),
        gain_high=round(1 - exp(mean - SURE * error), 4),
    )
