"""The plan against reality: unequal swarms of real nodes, what was predicted, what was measured.

Each node is made slow by sleeping for every block it computes, and sits behind a cable with a delay
and a rate of its own (Linux, as root). The plan knows what was added, the blocks' profile, and what
a hop, a frame and the caller take: these are measured once, on a swarm that is not predicted. Then
nodes are started with the plan's spans and measured, and again with the spans of memory-
proportional placement. Beside it stands what `plan --join` says of the same nodes by what they
tell themselves.

`python -m benchmarks.reality [--swarms 10] [--seed 0] [--objective latency|throughput] [--json]`
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.reporting import save
from benchmarks.unequal import Costs, Machine, draw, line, problem_of, spread, summary, tokens_per_s
from shardline.cli.live import standing, survey, visit
from shardline.cli.local import NAMES, local_swarm, unequal_spans
from shardline.cli.planning import problem_of as problem_of_file
from shardline.cli.planning import sizes_of
from shardline.core.spans import Span
from shardline.model import LoadedSpan, PagedLayer, fingerprint, measure_profile, resolve, trace
from shardline.partition import Placed, plan

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from shardline.cli.local import LocalSwarm
    from shardline.cli.planning import Sizes
    from shardline.client import Generation, SwarmModel
    from shardline.core.errors import ShardlineError
    from shardline.model import ChainPlan, Crossing, Returned, SessionCache

MODEL = Path(__file__).parents[1] / "models" / "fable-2m"
DTYPE = "float32"
CACHE_TOKENS = 256
"""A node takes blocks only if so many fit beside them."""
PROMPT_TOKENS = 16
RUNS = 3
RUN_S = 2.0
"""About so long is one run; it writes TOKENS[0] to TOKENS[1] tokens."""
TOKENS = 12, 64
PROFILE_S = 4.0
PROBES, PROBE_BLOCK_MS, PROBE_LATENCY_MS = 3, 2.0, 4.0
"""The swarm by which a hop's own cost is measured."""
PROBE_RATE = 62_500.0
"""Of its cables, in bytes a second, when a frame's size is measured."""
STREAMS = {"latency": 1, "throughput": 6}
"""How many write at once."""
WAIT_S = 120.0
METHODS = {"plan": "auto", "memory": "memory"}


@dataclass(frozen=True, slots=True)
class Bench:
    """What all swarms have in common."""

    model: Path
    chain: ChainPlan
    sizes: Sizes
    costs: Costs


def slow_blocks(block_s: float) -> None:
    """Make every block of this process sleep for so long at each session's step.

    Merged steps sleep once for each session in them, as on a node whose time is arithmetic: that is
    what the plan counts. On one whose time is reading weights more sessions cost less.
    """
    run_together = LoadedSpan.run_together

    def slowly(
        self: LoadedSpan, steps: Sequence[tuple[Crossing, SessionCache]]
    ) -> list[Crossing | Returned | ShardlineError]:
        found = run_together(self, steps)
        time.sleep(block_s * len(self.span) * len(steps))
        return found

    LoadedSpan.run_together = slowly


@contextlib.contextmanager
def serving(
    model: Path, machines: Sequence[Machine], chain: Sequence[Placed], sizes: Sizes
) -> Generator[LocalSwarm]:
    """Nodes with these spans on these machines, ready."""
    room_bytes = max(map(sum, zip(sizes.block_bytes, sizes.cache_bytes, strict=True)))
    by_name = {machine.name: machine for machine in machines}
    with local_swarm(model, [], dtype=DTYPE) as local, local.cabled(len(chain)) as places:
        assert local.cables is not None
        for placed, place in zip(chain, places, strict=True):
            machine = by_name[placed.node]
            local.cables.slow(place, machine.latency_ms / 1e3, machine.mbit * 1e6 / 8)
            local.start(
                placed.node,
                Span(placed.start, placed.stop),
                place,
                options=["--memory", f"{machine.room * room_bytes}B"],
                prepare=functools.partial(slow_blocks, machine.block_ms / 1e3),
            )
        try:
            local.wait_until_ready()
            yield local
        finally:
            for placed in chain:
                local.end(placed.node)


def generations(local: LocalSwarm, model: Path, tokens: int, runs: int) -> list[Generation]:
    """So many runs of so many tokens each, after one short run that sets everything up."""
    writer = local.swarm.model_now(str(model))
    return [written(writer, count) for count in (4, *[tokens] * runs)][1:]


def written(writer: SwarmModel, tokens: int) -> Generation:
    """How it went to write so much after a short prompt."""
    prompt = torch.ones(1, PROMPT_TOKENS, dtype=torch.long)
    writer.generate(prompt, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
    assert writer.last is not None
    return writer.last


def measure_costs(model: Path, chain: ChainPlan, sizes: Sizes) -> Costs:
    """What this machine takes for blocks, hops, frames and the caller's part."""
    profile = measure_profile(
        chain,
        dtype=torch.float32,
        device=torch.device("cpu"),
        memory_bytes=2**30,
        budget_s=PROFILE_S,
    )
    names, spans = NAMES[:PROBES], unequal_spans(chain.blocks, PROBES)
    machines = [Machine(name, chain.blocks, PROBE_BLOCK_MS, PROBE_LATENCY_MS) for name in names]
    placed = [Placed(name, span.start, span.stop) for name, span in zip(names, spans, strict=True)]
    with serving(model, machines, placed, sizes) as local:
        assert local.cables is not None
        wide = generations(local, model, TOKENS[1], RUNS)
        for place in local.cables.places:
            local.cables.slow(place, PROBE_LATENCY_MS / 1e3, PROBE_RATE)
        narrow = generations(local, model, TOKENS[0], RUNS)
    passed, links = 2 * PROBES, PROBES + 1  # a link leads through the cables of both its ends
    lag_ms = PROBE_LATENCY_MS * passed / links
    frame_bytes = (step_s(narrow) - step_s(wide)) / passed * PROBE_RATE
    return Costs(
        block_ms=profile.block_ms(),
        hop_ms=max(0.0, statistics.median(run.hop_overhead_ms for run in wide) - lag_ms),
        frame_bytes=max(frame_bytes, sizes.output_bytes),  # a busy machine may hide it
        caller_ms=1e3 * statistics.median(map(_caller_s, wide)),
    )


def step_s(runs: Sequence[Generation]) -> float:
    """The median decode step of all runs, from the caller through all nodes and back."""
    return statistics.median(step.wall_s for run in runs for step in run.steps[1:])


def _caller_s(run: Generation) -> float:
    return 1 / run.tokens_per_s - statistics.mean(step.wall_s for step in run.steps[1:])


def together(
    local: LocalSwarm, model: Path, tokens: int, streams: int
) -> tuple[list[float], list[Generation]]:
    """Tokens/s of all streams in each run, and how each stream went in its last one."""
    if streams == 1:
        runs = generations(local, model, tokens, RUNS)
        return [run.tokens_per_s for run in runs], runs
    begin = threading.Barrier(streams)
    writers = [local.swarm.model_now(str(model)) for _ in range(streams)]  # not from many threads

    def write(writer: SwarmModel) -> list[tuple[float, float, Generation]]:
        told: list[tuple[float, float, Generation]] = []
        for count in (4, *[tokens] * RUNS):
            begin.wait(WAIT_S)
            started_s = time.perf_counter()
            run = written(writer, count)
            told.append((started_s, time.perf_counter(), run))
        return told[1:]

    with ThreadPoolExecutor(streams, initializer=torch.set_num_threads, initargs=(1,)) as threads:
        by_stream = list(threads.map(write, writers))
    rates: list[float] = []
    for runs in zip(*by_stream, strict=True):
        first_s, last_s = min(run[0] for run in runs), max(run[1] for run in runs)
        rates.append(streams * tokens / (last_s - first_s))
    return rates, [runs[-1][2] for runs in by_stream]


def told_per_s(
    local: LocalSwarm, chain: ChainPlan, sizes: Sizes, caller_ms: float, streams: int
) -> float | None:
    """Tokens/s of the chain that a caller gets, by what the nodes say; None if that is none."""
    live = asyncio.run(visit(local.swarm.invite))
    seen = survey(live, fingerprint(chain.model_dir))
    now = standing(seen, problem_of_file(sizes, seen.file), DTYPE, "latency")
    if now.why_not:
        return None
    return tokens_per_s(now.bottleneck_ms, now.latency_ms + caller_ms, streams)


def measure(
    bench: Bench, machines: Sequence[Machine], method: str, objective: str
) -> dict[str, Any]:
    """Plan, serve what was planned, and say what came of it."""
    costs, sizes, streams = bench.costs, bench.sizes, STREAMS[objective]
    found = plan(problem_of(machines, sizes, costs), METHODS[method], objective=objective)
    predicted = tokens_per_s(found.bottleneck_ms, found.latency_ms + costs.caller_ms, streams)
    most = min(TOKENS[1], CACHE_TOKENS // streams - PROMPT_TOKENS)
    tokens = round(min(max(RUN_S * predicted / streams, TOKENS[0]), most))
    with serving(bench.model, machines, found.assignment, sizes) as local:
        told = told_per_s(local, bench.chain, sizes, costs.caller_ms, streams)
        rates, runs = together(local, bench.model, tokens, streams)
        names = {record.node: record.name for record in local.swarm.nodes_now()}
    for run in runs:
        taken = [Placed(names[hop.node], hop.span.start, hop.span.stop) for hop in run.chain]
        if taken != list(found.assignment):
            raise AssertionError(f"planned {found.assignment}, but a caller took {taken}")
    return {
        "assignment": [f"{share.node} {share.start}:{share.stop}" for share in found.assignment],
        "gap": found.gap,
        "predicted": predicted,
        "told": told,
        "measured": statistics.median(rates),
        "runs": rates,
        "nodes_ms": [list(run.nodes_ms) for run in runs],
    }


def reality(model: Path, swarms: int, seed: int, objective: str) -> dict[str, Any]:
    """All swarms, one after the other."""
    chain = trace(resolve(str(model)))
    sizes = sizes_of(chain, torch.float32, CACHE_TOKENS, PagedLayer)
    costs = measure_costs(model, chain, sizes)
    bench = Bench(model, chain, sizes, costs)
    _say(f"costs: {costs}")
    cases: list[dict[str, Any]] = []
    for number in range(seed, seed + swarms):
        machines = draw(number, chain.blocks)
        case: dict[str, Any] = {
            "swarm": number,
            "spread": spread(machines),
            "machines": [machine.to_json() for machine in machines],
        }
        for method in METHODS:
            case[method] = measure(bench, machines, method, objective)
        case["ratio"] = case["plan"]["measured"] / case["memory"]["measured"]
        cases.append(case)
        _say(f"swarm {number}: {line(case)}")
    return {"model": model.name, "costs": asdict(costs), "cases": cases}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measure, print and save; with --json print all numbers and save nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swarms", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--objective", choices=list(STREAMS), default="latency")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        os.environ["SHARDLINE_HOME"] = home  # what is kept of these swarms goes with them
        found = reality(options.model, options.swarms, options.seed, options.objective)
    if options.json:
        print(json.dumps(found))
        return
    save(f"reality {options.objective}", summary(found["cases"]), found)


if __name__ == "__main__":
    main()
