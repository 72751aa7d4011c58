"""The shipped model on real processes, and a caller that writes while something happens to them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import AutoModelForCausalLM

from shardline.cli.demo import shipped_model
from shardline.cli.local import unequal_spans
from shardline.model import quiet, trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardline.cli.local import LocalSwarm
    from shardline.client import Mended
    from shardline.core.spans import Span

PROMPT = torch.tensor([[7, 300, 41, 512, 99, 1000]])


def greedy(tokens: int) -> dict[str, Any]:
    """Settings for exactly so many tokens, the likeliest each time."""
    return {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}


def alone(settings: dict[str, Any], prompt: torch.Tensor = PROMPT) -> list[int]:
    """What one process writes, by Transformers alone."""
    with quiet():
        whole = cast("Any", AutoModelForCausalLM).from_pretrained(
            shipped_model(), dtype=torch.float32
        )
    return whole.generate(prompt, **settings)[0, prompt.shape[1] :].tolist()


def parts(count: int) -> list[Span]:
    """The model's blocks in so many spans, not all of one size."""
    return unequal_spans(trace(shipped_model()).blocks, count)


class Scene:
    """A swarm, and a caller that writes so many tokens each time."""

    def __init__(self, local: LocalSwarm, tokens: int) -> None:
        self.local = local
        self.told: list[Mended | str] = []
        """What the caller was told since `listen`."""
        self.heard = threading.Event()
        self.model = local.swarm.model_now(str(shipped_model()), tell=self._hear)
        self._settings = greedy(tokens)

    def _hear(self, news: Mended | str) -> None:
        self.told.append(news)
        self.heard.set()

    def listen(self) -> None:
        """Forget what the caller was told; each text begins with that."""
        self.told.clear()
        self.heard.clear()

    def name(self, place: int) -> str:
        """The node at this place of the chain."""
        names = {record.node: record.name for record in self.local.swarm.nodes_now()}
        return names[self.model.chain[place].node]

    def write(self, at: int = 0, act: Callable[[], object] | None = None) -> list[int]:
        """All tokens, with something happening after the one at `at`."""
        self.listen()
        seen: list[int] = []
        for token in self.model.stream(PROMPT, **self._settings):
            seen.append(token)
            if act is not None and len(seen) == at:
                act()
        return seen
