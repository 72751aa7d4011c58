"""The topology room: what estimates miss, whether fingerprints know their family, and the time.

Low-rank completion, which lost, is kept here as what the estimates are measured against.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.reporting import save
from shardline.topology import (
    FAMILIES,
    Fingerprint,
    Weights,
    diagrams,
    distance,
    drift,
    fingerprint,
    link_matrix,
    made_up,
    nearest,
    probes,
    take,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["main"]

RANK = 4
PENALTY = 2.0
ONLY = {
    "all": Weights(),
    "homology alone": Weights(pairs=0, scale=0, size=0),
    "H0 alone": Weights(pairs=0, rings=0, scale=0, size=0),
    "H1 alone": Weights(pairs=0, parts=0, scale=0, size=0),
    "plain distances alone": Weights(parts=0, rings=0, scale=0, size=0),
    "size and scale alone": Weights(pairs=0, parts=0, rings=0),
}


def low_rank(measured_ms: Floats) -> Floats:
    """Alternating least squares on the logarithm, beside a term for each node."""
    seen = (~np.isnan(measured_ms)).astype(np.float64)
    logs = np.where(seen > 0, np.log(np.where(seen > 0, measured_ms, 1.0)), 0.0)
    mean = logs.sum() / seen.sum()
    own = np.zeros(len(logs))
    for _ in range(30):
        own = ((logs - mean - own[None, :]) * seen).sum(axis=1) / (seen.sum(axis=1) + 1.0)
    base = mean + own[:, None] + own[None, :]
    rest = np.where(seen > 0, logs - base, 0.0)
    right = np.random.default_rng(0).normal(0.0, 0.3, (len(logs), RANK))
    left = right
    for _ in range(20):
        left = _solve(seen, rest, right)
        right = _solve(seen.T, rest.T, left)
    return np.exp(base + (left @ right.T + right @ left.T) / 2)


def _solve(seen: Floats, rest: Floats, fixed: Floats) -> Floats:
    outer = (fixed[:, :, None] * fixed[:, None, :]).reshape(len(fixed), -1)
    normal = (seen @ outer).reshape(-1, RANK, RANK) + PENALTY * np.eye(RANK)
    return np.linalg.solve(normal, (rest @ fixed)[..., None])[..., 0].astype(np.float64)


def completion(nodes: int, links: int, seeds: int) -> dict[str, dict[str, float]]:
    """Median relative errors of unmeasured round trips, and how many error bars held."""
    found: dict[str, dict[str, float]] = {}
    for family in FAMILIES:
        rows: list[list[float]] = []
        for seed in range(seeds):
            network = made_up(family, nodes, seed)
            matrix = link_matrix(network.nodes, probes(network, links=links, seed=seed))
            hidden = ~matrix.measured & ~np.eye(nodes, dtype=bool)
            seen = np.where(matrix.measured, matrix.rtt_ms, np.nan)
            missed = [
                np.abs(np.log(guess / network.rtt_ms[hidden]))
                for guess in (
                    matrix.rtt_ms[hidden], low_rank(seen)[hidden], np.nanmedian(seen),
                )
            ]  # fmt: skip
            errors = [float(np.expm1(np.median(each))) for each in missed]
            held = float((missed[0] <= np.log(matrix.rtt_factor[hidden])).mean())
            rows.append([*errors, held, matrix.rate_missed])
        names = ("coordinates", "low rank", "median", "bars that held", "rates, held out")
        found[family] = dict(zip(names, np.mean(rows, axis=0).round(3).tolist(), strict=True))
    return found


def _state(family: str, nodes: int, seed: int) -> Fingerprint:
    network = made_up(family, nodes, seed)
    return fingerprint(link_matrix(network.nodes, probes(network, links=12, seed=seed)))


def classification(seeds: int) -> dict[str, float]:
    """Share of networks whose nearest stored fingerprint is of their own family."""
    stored = {
        f"{family}/{nodes}/{seed}": _state(family, nodes, seed)
        for family in FAMILIES
        for nodes in (16, 32, 64)
        for seed in range(3)
    }
    asked = [
        (family, _state(family, nodes, 100 + seed))
        for family in FAMILIES
        for nodes in (16, 24, 48, 64)
        for seed in range(seeds)
    ]
    return {
        name: float(np.mean([nearest(s, stored, w)[0].split("/")[0] == f for f, s in asked]))
        for name, w in ONLY.items()
    }


def seconds(nodes: int) -> dict[str, float]:
    """CPU seconds of each step on one network, the sites."""
    network = made_up("sites", nodes, 1)
    found = probes(network, links=24, seed=1)
    times = [time.process_time()]
    matrix = link_matrix(network.nodes, found)
    times.append(time.process_time())
    diagrams(matrix.rtt_ms)
    times.append(time.process_time())
    shot = take(matrix)
    times.append(time.process_time())
    drift(shot, shot)
    distance(shot.fingerprint, shot.fingerprint)
    times.append(time.process_time())
    steps = ("link matrix", "diagrams", "snapshot", "drift")
    return dict(zip(steps, np.diff(times).round(4).tolist(), strict=True))


def main() -> None:
    """Measure and save a report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    seeds: int = parser.parse_args().seeds
    errors = completion(50, 12, seeds)
    known = classification(seeds)
    times = {nodes: seconds(nodes) for nodes in (50, 200, 500)}
    rows = [
        (
            f"{family}: unmeasured round trips, 50 nodes, 12 links each: coordinates / low rank",
            (
                f"{each['coordinates']:.1%} / {each['low rank']:.1%}; "
                f"bars hold {each['bars that held']:.0%}"
            ),
            "bars at least 90%",
        )
        for family, each in errors.items()
    ]
    rows += [
        (f"family by nearest fingerprint: {name}", f"{x:.1%}", "") for name, x in known.items()
    ]
    rows += [
        (f"{nodes} nodes, CPU s", ", ".join(f"{step} {s:.3f}" for step, s in each.items()), "")
        for nodes, each in times.items()
    ]
    data: dict[str, Any] = {"completion": errors, "classification": known, "seconds": times}
    save("topology", rows, data)


if __name__ == "__main__":
    main()
