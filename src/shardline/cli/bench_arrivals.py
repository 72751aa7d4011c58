"""Sessions that come at different times, beside as many that come together.

Each session reads a prompt and writes a few tokens, from a thread of its own, as separate users do.
What a user's own machine does beside, its embeddings and head, would be done here for all of them,
and be measured in place of the nodes' work. So a first run notes what every session sends, and
those that are measured send just that: the nodes cannot tell the difference.
"""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, Protocol

from transformers import DynamicCache

from shardline.cli.bench_crowd import SETTLE_TOKENS, Apart, decode
from shardline.model import load_ends

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from transformers import Cache

    from shardline.cli.bench_crowd import Together
    from shardline.client import SwarmModel
    from shardline.model import Crossing, Returned

    Script = Sequence[Crossing]
    """What one session sends, step by step."""

__all__ = ["Arrivals", "Sends", "Stream", "gaps_of", "measure_arrivals", "scripts_of", "wave"]

WAVES: Final = 2
"""How often all sessions come together, and how many of each user's end in a stream."""
SPREAD: Final = 0.5
"""Of the time that sessions take together: over that much of it they come one by one, once."""
WARM_STEPS: Final = 3
"""Of each session before anything counts: nodes try out what they can do together."""


class Sends(Protocol):
    """The way to a model's blocks; any threads may use it at once."""

    def __call__(self, cache: Cache, crossing: Crossing) -> Returned:
        """One step of the session that this cache names."""
        ...

    def end(self, cache: Cache) -> None:
        """Close that session."""
        ...


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Tokens a second of all sessions, prompts' reading included."""

    together: float
    """All begin at once, and nobody follows them."""
    stream: float
    """They began at random times, and whoever ends is followed: always as many, never aligned."""
    once: float
    """They begin at random times, and nobody follows them."""
    spread_s: float
    """Over which they begin then."""

    def told(self, sessions: int, tokens: int) -> dict[str, Any]:
        """As the report has it, for sessions of so many tokens."""
        return {
            "sessions": sessions,
            "tokens": tokens,
            "together_tokens_per_s": self.together,
            "random_tokens_per_s": self.stream,
            "share": self.stream / self.together,
            "once_tokens_per_s": self.once,
            "once_spread_s": self.spread_s,
        }


def scripts_of(
    model: SwarmModel, prompts: torch.Tensor, tokens: int, device: torch.device
) -> list[Script]:
    """What sessions with these prompts (sessions, prompt tokens) send to write so many tokens."""
    with model.lend(prompts.shape[1] + tokens) as send:
        noting = _Noting(send)
        ends = load_ends(model.plan, Apart(noting), dtype=model.dtype, device=device)
        decode(ends, prompts, tokens - SETTLE_TOKENS)
    return list(noting.kept.values())


class _Noting:
    """A way to the blocks that keeps what each session sends."""

    def __init__(self, way: Together) -> None:
        self.kept: dict[Cache, list[Crossing]] = {}
        self._way = way

    def together(self, asked: Sequence[tuple[Cache | None, Crossing]]) -> list[Returned]:
        """As the way that it stands before."""
        for cache, crossing in asked:
            assert cache is not None
            self.kept.setdefault(cache, []).append(crossing)
        return self._way.together(asked)


def measure_arrivals(send: Sends, scripts: Sequence[Script], *, seed: int = 0) -> Arrivals:
    """Send these scripts together and one by one; raises what a step does."""
    luck = random.Random(seed)  # noqa: S311  (a seeded experiment)
    sessions, tokens = len(scripts), sum(len(script) for script in scripts)
    at_once = [0.0] * sessions
    wave(send, [script[:WARM_STEPS] for script in scripts], at_once)
    together_s = sum(wave(send, scripts, at_once) for _ in range(WAVES)) / WAVES
    begins_s = gaps_of(sessions, SPREAD * together_s, luck)
    once_s = wave(send, scripts, begins_s)
    phases_s = [luck.uniform(0, together_s) for _ in scripts]
    stream = Stream(send, sessions).run(scripts, phases_s)
    return Arrivals(tokens / together_s, stream, tokens / once_s, begins_s[-1])


def gaps_of(sessions: int, spread_s: float, luck: random.Random) -> list[float]:
    """When sessions begin that know nothing of each other: the first at 0, the last at the end."""
    gaps = [luck.expovariate(1.0) for _ in range(sessions - 1)]
    whole = sum(gaps) or 1.0
    return list(accumulate((spread_s * gap / whole for gap in gaps), initial=0.0))


def wave(send: Sends, scripts: Sequence[Script], begins_s: Sequence[float]) -> float:
    """Seconds from when the first of these sessions begins until the last has ended."""
    halt = threading.Event()

    def user(script: Script, begins_s: float) -> None:
        halt.wait(begins_s)
        _session(send, script, halt, lambda: None)

    started_s = time.perf_counter()
    _all_at_once(user, halt, scripts, begins_s)
    return time.perf_counter() - started_s


def _session(send: Sends, script: Script, halt: threading.Event, told: Callable[[], None]) -> None:
    """Send one script, and close the session; `told` is called with every token."""
    cache = DynamicCache()
    try:
        for crossing in script:
            if halt.is_set():
                return
            send(cache, crossing)
            told()
    finally:
        send.end(cache)


def _all_at_once(user: Callable[..., None], halt: threading.Event, *each: Sequence[Any]) -> None:
    """One thread a user; if one fails the others stop, and its error is raised."""

    def work(*own: Any) -> None:
        try:
            user(*own)
        except BaseException:
            halt.set()
            raise

    with ThreadPoolExecutor(len(each[0])) as pool:
        for working in [pool.submit(work, *own) for own in zip(*each, strict=True)]:
            working.result()


@dataclass(slots=True)
class Stream:
    """Users each of whom begins another session when one ends, from a time of its own on.

    It counts from when all are there until so many sessions have ended that each user could have
    ended WAVES.
    """

    send: Sends
    users: int
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)
    _here: int = 0
    _ended: int = 0
    _tokens: int = 0
    _since_s: float = 0.0
    _until_s: float = 0.0

    def run(self, scripts: Sequence[Script], phases_s: Sequence[float]) -> float:
        """Tokens a second while all users are there; raises what a step does."""
        _all_at_once(self._user, self._over, scripts, phases_s)
        return self._tokens / max(self._until_s - self._since_s, 1e-9)

    def _user(self, script: Script, phase_s: float) -> None:
        self._over.wait(phase_s)
        with self._lock:
            self._here += 1
            self._since_s = time.perf_counter()  # the last one to come counts
        while not self._over.is_set():
            _session(self.send, script, self._over, self._wrote)
            self._end()

    def _wrote(self) -> None:
        with self._lock:
            self._tokens += self._here == self.users and not self._over.is_set()

    def _end(self) -> None:
        with self._lock:
            self._ended += self._here == self.users
            if self._ended >= WAVES * self.users and not self._over.is_set():
                self._until_s = time.perf_counter()
                self._over.set()
