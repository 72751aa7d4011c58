"""Faults under a running generation, one after the other, and what became of the text."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from shardline.cli.chaos.faults import FAULTS, Field
from shardline.cli.chaos.toll import Toll
from shardline.core.errors import ShardlineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from random import Random

    from shardline.cli.chaos.glutton import Glutton
    from shardline.cli.local import LocalSwarm
    from shardline.client import SwarmModel

__all__ = ["Storm", "Strike"]

TOKENS: Final = 40
PROMPTS: Final = 8
PROMPT_TOKENS: Final = 6


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault during one generation."""

    fault: str
    victim: str
    exact: bool
    recovery_s: float
    """From the token before the fault, or the start, to the next."""
    first_token_s: float | None
    """Of a text that was begun while the fault lasted."""
    rejoin_s: float
    """After the text and the healing, until every node was ready."""
    error: str

    def line(self, number: int) -> str:
        """For a person, while it goes on."""
        how = "exact" if self.exact else f"NOT exact ({self.error or 'other tokens'})"
        return (
            f"{number:4} {self.fault:8}{self.victim:10}{how}, next token after "
            f"{self.recovery_s:.2f} s, all nodes ready after {self.rejoin_s:.2f} s"
        )


@dataclass(frozen=True, slots=True)
class _Text:
    exact: bool
    gap_s: float
    """Before the token that was waited for, or until the error."""
    error: str


class Storm:
    """Writes on a local swarm while faults strike its nodes; everything is drawn from `rng`."""

    def __init__(
        self, local: LocalSwarm, model: Path, rng: Random, glutton: Glutton | None = None
    ) -> None:
        import torch

        self._local = local
        self._rng = rng
        self._field = Field(local, glutton)
        self._toll = Toll()
        self.strikes: list[Strike] = []
        self._model: SwarmModel = local.swarm.model_now(str(model), tell=lambda _: None)
        vocabulary = self._model.plan.vocabulary
        self._prompts = [
            torch.tensor([[rng.randrange(3, vocabulary) for _ in range(PROMPT_TOKENS)]])
            for _ in range(PROMPTS)
        ]
        self._settings = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False}
        self._golden = _alone(model, self._prompts, self._settings)
        for prompt in self._prompts:  # warm up before anything is counted
            self._model.generate(prompt, **self._settings)
        self._look()

    def strike(self, name: str) -> Strike:
        """One generation, one fault, and all well again."""
        fault = FAULTS[name]
        at = 0 if fault.at_start else self._rng.randrange(1, TOKENS - 1)
        choice = self._rng.randrange(PROMPTS)
        victims: list[str] = []
        heals: list[Callable[[], None]] = []

        def act() -> None:
            victims.append(self._victim())
            heals.append(fault.strike(self._field, victims[0]))

        text = self._write(choice, at, act)
        later = None
        if fault.lasts and not fault.at_start:
            later = self._write(self._rng.randrange(PROMPTS))
        begun_s = time.perf_counter()
        for heal in heals:
            heal()
        self._local.wait_until_ready()
        struck = Strike(
            fault=name,
            victim=victims[0],
            exact=text.exact and (later is None or later.exact),
            recovery_s=text.gap_s,
            first_token_s=None if later is None else later.gap_s,
            rejoin_s=time.perf_counter() - begun_s,
            error=text.error or (later.error if later else ""),
        )
        self._look()
        self.strikes.append(struck)
        return struck

    def _write(self, choice: int, at: int = 0, act: Callable[[], None] | None = None) -> _Text:
        """A whole text, with something happening after `at` tokens."""
        seen: list[int] = []
        if act is not None and at == 0:
            act()
        stamps_s = [time.perf_counter()]
        error = ""
        try:
            for token in self._model.stream(self._prompts[choice], **self._settings):
                seen.append(token)
                stamps_s.append(time.perf_counter())
                if act is not None and len(seen) == at:
                    act()
        except ShardlineError as failure:
            error = str(failure)
            stamps_s.append(time.perf_counter())
        return _Text(seen == self._golden[choice], stamps_s[at + 1] - stamps_s[at], error)

    def _victim(self) -> str:
        names = {record.node: record.name for record in self._local.swarm.nodes_now()}
        return names[self._rng.choice(self._model.chain).node]

    def _look(self) -> None:
        """Look at this process, which has lived through all of it, and at the nodes."""
        nodes = [process.pid for process in self._local.processes.values()]
        self._toll.look([os.getpid(), *filter(None, nodes)])

    def report(self) -> dict[str, Any]:
        """What was promised, and what was seen."""
        return {
            "kills": sum(strike.fault == "kill" for strike in self.strikes),
            "faults": len(self.strikes),
            "token_exact": sum(strike.exact for strike in self.strikes),
            **_times("recovery", [strike.recovery_s for strike in self.strikes]),
            "leaked_fds": self._toll.leaked_fds,
            "rss_growth_bytes": self._toll.rss_growth_bytes,
            "by_fault": {
                name: _summary([strike for strike in self.strikes if strike.fault == name])
                for name in dict.fromkeys(strike.fault for strike in self.strikes)
            },
        }


def _summary(strikes: Sequence[Strike]) -> dict[str, Any]:
    """How one fault went."""
    firsts_s = [strike.first_token_s for strike in strikes if strike.first_token_s is not None]
    return {
        "count": len(strikes),
        "token_exact": sum(strike.exact for strike in strikes),
        **_times("recovery", [strike.recovery_s for strike in strikes]),
        "first_token_max_s": max(firsts_s, default=None),
        "rejoin_max_s": max(strike.rejoin_s for strike in strikes),
    }


def _times(what: str, times_s: Iterable[float]) -> dict[str, float]:
    """Median, 99th percentile and longest."""
    ranked_s = sorted(times_s)
    return {
        f"{what}_p50_s": statistics.median(ranked_s),
        f"{what}_p99_s": ranked_s[min(len(ranked_s) - 1, int(0.99 * len(ranked_s)))],
        f"{what}_max_s": ranked_s[-1],
    }


def _alone(model: Path, prompts: Sequence[Any], settings: dict[str, Any]) -> list[list[int]]:
    """What one process writes after each prompt, by Transformers alone."""
    import torch
    from transformers import AutoModelForCausalLM

    from shardline.model import quiet

    torch.set_num_threads(1)
    with quiet():
        whole = cast("Any", AutoModelForCausalLM).from_pretrained(model, dtype=torch.float32)
    return [whole.generate(prompt, **settings)[0, PROMPT_TOKENS:].tolist() for prompt in prompts]
