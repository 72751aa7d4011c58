"""`shardline bench`: measurements that anyone can repeat."""

from __future__ import annotations

import json
import random
import statistics
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import click
import psutil

from shardline.cli.demo import shipped_model
from shardline.cli.options import json_option
from shardline.cli.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from shardline.cli.local import LocalSwarm
    from shardline.client import SwarmModel
    from shardline.core.spans import Span

__all__ = ["bench"]

SPANS = 3
REPLICAS = 2
TOKENS = 40
PROMPTS = 8


@click.group()
def bench() -> None:
    """Measure, on this machine, what shardline promises."""


@bench.command()
@click.option("--kills", type=click.IntRange(min=1), default=20, show_default=True)
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), help="Stop after this time."
)
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def chaos(*, kills: int, minutes: float | None, seed: int, as_json: bool) -> None:
    """Kill nodes with SIGKILL while they write, and compare every token with an unbroken run.

    Three spans of the shipped model with two nodes each, as real processes on loopback.
    """
    from shardline.cli.local import local_swarm, unequal_spans
    from shardline.model import trace

    model = shipped_model()
    spans = unequal_spans(trace(model).blocks, SPANS) * REPLICAS
    deadline_s = None if minutes is None else time.monotonic() + 60 * minutes
    with (
        Progress("starting nodes", wanted=not as_json) as progress,
        local_swarm(model, spans) as local,
    ):
        storm = _Storm(local, model, random.Random(seed))  # noqa: S311  (a seeded experiment)
        for count in range(kills):
            if deadline_s is not None and time.monotonic() > deadline_s:
                break
            progress.say(f"kill {count + 1} of {kills}")
            storm.strike()
        report = storm.report()
    click.echo(json.dumps(report) if as_json else _table(report))


@dataclass(frozen=True, slots=True)
class _Strike:
    """One node's death during one generation."""

    exact: bool
    recovery_s: float


class _Storm:
    """Kills nodes of a local swarm in mid-generation and starts others in their places."""

    def __init__(self, local: LocalSwarm, model: Path, rng: random.Random) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        from shardline.model import quiet

        torch.set_num_threads(1)
        with quiet():
            self._whole = cast("Any", AutoModelForCausalLM).from_pretrained(
                model, dtype=torch.float32
            )
        self._local = local
        self._rng = rng
        self._model: SwarmModel = local.swarm.model_now(str(model), tell=lambda _: None)
        self._strikes: list[_Strike] = []
        self._spans: dict[str, Span] = {
            record.name: record.span for record in local.swarm.nodes_now()
        }
        vocabulary = self._model.plan.vocabulary
        self._prompts = [
            torch.tensor([[rng.randrange(3, vocabulary) for _ in range(6)]]) for _ in range(PROMPTS)
        ]
        self._settings = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False}
        self._golden = [
            self._whole.generate(prompt, **self._settings)[0, 6:].tolist()
            for prompt in self._prompts
        ]
        for prompt in self._prompts:  # warm up before anything is counted
            self._model.generate(prompt, **self._settings)
        self._before = self._usage()

    def strike(self) -> None:
        """One generation, one death, one replacement."""
        self._local.wait_until_ready()
        at = self._rng.randrange(1, TOKENS - 1)
        choice = self._rng.randrange(PROMPTS)
        seen: list[int] = []
        stamps_s: list[float] = []
        for token in self._model.stream(self._prompts[choice], **self._settings):
            seen.append(token)
            stamps_s.append(time.perf_counter())
            if len(seen) == at:
                self._kill_one()
        self._strikes.append(_Strike(seen == self._golden[choice], stamps_s[at] - stamps_s[at - 1]))

    def _kill_one(self) -> None:
        names = {record.node: record.name for record in self._local.swarm.nodes_now()}
        victim = names[self._rng.choice(self._model.chain).node]
        span = self._spans.pop(victim)
        self._local.kill(victim)
        self._local.end(victim)
        fresh = f"node-{len(self._strikes)}"
        self._spans[fresh] = span
        self._local.start(fresh, span)

    def _usage(self) -> Counter[str]:
        """Open files and memory of this process, which has lived through all of it."""
        process = psutil.Process()
        return Counter(fds=process.num_fds(), rss_bytes=process.memory_info().rss)

    def report(self) -> dict[str, Any]:
        """What was promised, and what was seen."""
        times_s = sorted(strike.recovery_s for strike in self._strikes)
        after = self._usage()
        return {
            "kills": len(self._strikes),
            "token_exact": sum(strike.exact for strike in self._strikes),
            "recovery_p50_s": statistics.median(times_s),
            "recovery_p99_s": times_s[min(len(times_s) - 1, int(0.99 * len(times_s)))],
            "recovery_max_s": times_s[-1],
            "leaked_fds": after["fds"] - self._before["fds"],
            "rss_growth_bytes": after["rss_bytes"] - self._before["rss_bytes"],
        }


def _table(report: dict[str, Any]) -> str:
    return "\n".join(
        f"{name.replace('_', ' '):20} {value:.3f}" if isinstance(value, float)
        else f"{name.replace('_', ' '):20} {value}"
        for name, value in report.items()
    )  # fmt: skip
