"""Whether other weights for routing would serve callers better, by simulation.

Weights are bred on a few seeds and compared with today's on others, seed by seed.

`python -m benchmarks.tune [--seed 0] [--generations 4]`
"""

from __future__ import annotations

import argparse

import msgspec

from benchmarks.reporting import save
from shardline.simulation import Traffic, tune


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--generations", type=int, default=4)
    options = parser.parse_args()
    traffic = Traffic(nodes=options.nodes, minutes=options.minutes, seed=options.seed)
    tuned = tune(traffic, options.generations)
    lines: list[tuple[str, str, str]] = []
    for one in (tuned.bred_on, *tuned.held_out):
        gain = f"{one.gain:.1%}, at 95% {one.gain_low:.1%} to {one.gain_high:.1%}"
        steps = f"a step in twenty takes {one.default_p95_ms:.0f} -> {one.p95_ms:.0f} ms"
        wasted = f"replayed or lost {one.default_wasted:.1%} -> {one.wasted:.1%}"
        goal = "" if one is tuned.bred_on else "surely above 0, or keep today's"
        what = f"cost saved, {one.seeds} seeds: {one.what}"
        lines.append((what, f"{gain}; {steps}, {wasted}", goal))
    lines += [
        (f"`{name}`: today's, bred", f"{tuned.defaults[name]:g}, {value:g}", "")
        for name, value in tuned.weights.items()
    ]
    sure = "yes" if tuned.sure_gain else "no"
    lines.append(("a sure gain in simulation", sure, "adopt only if it did not make it (0016)"))
    lines.append(("simulated runs, real seconds", f"{tuned.runs}, {tuned.seconds:.0f}", ""))
    save("tune routing", lines, msgspec.to_builtins(tuned))


if __name__ == "__main__":
    main()
