"""What an 8-bit cache does to a trained model's text, and to the time of a step.

The shipped model in float32 in this process, beside the same with its keys and values as they are.
Of so many prompts it compares whole greedy texts and, on the exact texts, at each place the
likeliest token and all logits. Other ways to hold them are written here as what they would give
back. "Planted" is the same model with some channels of its keys 16 times as large and those of its
queries as much smaller: it computes the same, and has the outliers that keys of large models have.
Then: processor time that a block of TinyLlama's shape takes for one token behind a context.

`python -m benchmarks.cache [--prompts 20] [--tokens 40]`
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.reporting import save
from benchmarks.shapes import tinyllama, write_model
from benchmarks.wires import NAMES, OPENINGS, compare
from shardline.cli.demo import shipped_model
from shardline.core.spans import Span
from shardline.model import (
    CACHES,
    LoadedSpan,
    PagedLayer,
    Returned,
    load_ends,
    load_span,
    load_tokenizer,
    trace,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import Cache

    from shardline.model import Crossing, SessionCache
    from shardline.model.pages import Held, KeysValues

CPU = torch.device("cpu")
INT8 = CACHES["int8"]
LARGER = 16.0
PLANTED = (3, 17)
"""Channels of each head; rotary code turns each with the one half a head further."""
CONTEXTS = (128, 1_024)
STEPS = 12
GROUP = 32


def coarse(states: torch.Tensor, dim: int, *, bits: int = 8, signed: bool = True) -> torch.Tensor:
    """What would come back of codes that share a scale (and, unsigned, a zero) along `dim`."""
    low = -states.abs().amax(dim, keepdim=True) if signed else states.amin(dim, keepdim=True)
    high = -low if signed else states.amax(dim, keepdim=True)
    scale = ((high - low) / (2**bits - (2 if signed else 1))).clamp_min(1e-30)
    zero = 0 if signed else low
    return ((states - zero) / scale).round_() * scale + zero


class Unsigned(PagedLayer):
    """8 bits between a vector's least and largest element."""

    def _whole(self, runs: Sequence[Held]) -> KeysValues:
        keys, values = super()._whole(runs)
        return coarse(keys, -1, signed=False), coarse(values, -1, signed=False)


class KeysByChannel(PagedLayer):
    """Near KIVI: all keys of a text, about as many as in a page, share scales by channel."""

    def _whole(self, runs: Sequence[Held]) -> KeysValues:
        keys, values = super()._whole(runs)
        return coarse(keys, -2), coarse(values, -1)


class ByGroup(PagedLayer):
    """A scale for each GROUP elements, as llama.cpp's Q8_0."""

    def _whole(self, runs: Sequence[Held]) -> KeysValues:
        keys, values = super()._whole(runs)
        return self._grouped(keys), self._grouped(values)

    def _grouped(self, states: torch.Tensor) -> torch.Tensor:
        groups = states.reshape((*states.shape[:-1], -1, GROUP))
        return coarse(groups, -1).flatten(-2)


class ByToken4(PagedLayer):
    """4 bits a vector."""

    def _whole(self, runs: Sequence[Held]) -> KeysValues:
        keys, values = super()._whole(runs)
        return coarse(keys, -1, bits=4), coarse(values, -1, bits=4)


class Chain:
    """All blocks in this process, on a cache of one kind; `compare` of `wires` knows how to ask."""

    def __init__(
        self, place: Path, kind: type[PagedLayer], dtype: torch.dtype, planted: float = 1.0
    ) -> None:
        plan = trace(place)
        self.span = load_span(plan, Span(0, plan.blocks), dtype=dtype, device=CPU)
        self.span.cache = kind
        if planted != 1.0:
            plant(self.span, planted)
        self.step_ms: list[float] = []
        self._caches: weakref.WeakKeyDictionary[Cache, SessionCache] = weakref.WeakKeyDictionary()
        self.ends: Any = load_ends(plan, self._run, dtype=dtype, device=CPU)

    def _run(self, cache: Cache | None, crossing: Crossing) -> Returned:
        held = None if cache is None else self._caches.setdefault(cache, self.span.new_cache())
        started_s = time.thread_time()
        out = self.span.run(crossing, held)
        self.step_ms.append(1e3 * (time.thread_time() - started_s) / len(self.span.blocks))
        assert isinstance(out, Returned)
        return out

    def text(self, prompt: torch.Tensor, tokens: int) -> list[int]:
        """What it writes after the prompt, greedily; a text that has an end may end."""
        return self.ends.generate(prompt, max_new_tokens=tokens, do_sample=False)[0].tolist()

    def logits(self, text: list[int]) -> torch.Tensor:
        """(tokens, vocabulary), in one forward that keeps and reads its cache."""
        with torch.no_grad():
            return self.ends(input_ids=torch.tensor([text]), use_cache=True).logits[0].float()


@torch.no_grad()
def plant(span: LoadedSpan, larger: float) -> None:
    """Outliers in the keys of each head, and none in what attention computes of them."""
    for block in span.blocks.values():
        attention: Any = block.self_attn
        for name, factor in (("q_proj", 1 / larger), ("k_proj", larger)):
            weight = getattr(attention, name).weight
            by_head = weight.data.clone().unflatten(0, (-1, attention.head_dim))
            for channel in PLANTED:
                by_head[:, channel :: attention.head_dim // 2] *= factor
            getattr(attention, name).weight = torch.nn.Parameter(by_head.flatten(0, 1))


def texts(prompts: int, tokens: int) -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
    """How much each kind of cache changes."""
    tokenizer = load_tokenizer(shipped_model())
    starts = itertools.islice(itertools.product(OPENINGS, NAMES), prompts)
    ids = [torch.tensor([tokenizer(" ".join(start))["input_ids"]]) for start in starts]
    place, full = shipped_model(), torch.float32
    exact = Chain(place, PagedLayer, full)
    wanted = [exact.text(prompt, tokens) for prompt in ids]
    logits = [exact.logits(text) for text in wanted]
    found: dict[str, Any] = {}
    rows: list[tuple[str, str, str]] = []
    for name, kind, dtype, planted in (
        ("int8", INT8, full, 1.0),
        ("bfloat16 weights and cache, for comparison", PagedLayer, torch.bfloat16, 1.0),
        ("bfloat16 weights, int8", INT8, torch.bfloat16, 1.0),
        ("int8 with a zero", Unsigned, full, 1.0),
        ("int8, keys by channel", KeysByChannel, full, 1.0),
        ("int8 by 32", ByGroup, full, 1.0),
        ("4 bits by token", ByToken4, full, 1.0),
        ("int8, planted", INT8, full, LARGER),
        ("int8 by 32, planted", ByGroup, full, LARGER),
        ("int8 with a zero, planted", Unsigned, full, LARGER),
        ("int8, keys by channel, planted", KeysByChannel, full, LARGER),
    ):
        chain = Chain(place, kind, dtype, planted)
        one = found[name] = compare(chain, wanted, logits)  # pyright: ignore[reportArgumentType]
        same = sum(chain.text(p, tokens) == text for p, text in zip(ids, wanted, strict=True))
        one["texts_equal"] = same
        errors = f"{one['logit_error_rms']:.4f} rms, {one['logit_error_max']:.2f} at most"
        measured = f"{one['likeliest_equal']:.1%} of {one['places']}, {same} of {len(ids)} texts"
        rows.append((name, measured, f"logits off by {errors} of {one['logit_spread_rms']:.2f}"))
    return found, rows


def steps(dtype: torch.dtype) -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
    """Milliseconds of a block for one token, as it is and in 8 bits in turn."""
    config = tinyllama(blocks=2, vocabulary=512, positions=4_096)
    name, found = str(dtype).removeprefix("torch."), dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        write_model(config, Path(folder), dtype)
        chains = [Chain(Path(folder), kind, dtype) for kind in (PagedLayer, INT8)]
        for context in CONTEXTS:
            prompt = torch.randint(3, 500, (1, context))
            pasts: list[Any] = [chain.ends(input_ids=prompt).past_key_values for chain in chains]
            for _ in range(STEPS):
                for chain, past in zip(chains, pasts, strict=True):
                    chain.ends(input_ids=prompt[:, :1], past_key_values=past)
            ms = [statistics.median(chain.step_ms[-STEPS:]) for chain in chains]
            found[f"{name}, {context}"] = ms
    return found, [
        (
            f"one token behind {case}",
            f"{one:.2f} ms of CPU as it is, {two:.2f} ms int8",
            f"{two / one:.2f}x",
        )
        for case, (one, two) in found.items()
    ]


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=40)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        parts = [texts(asked.prompts, asked.tokens), steps(torch.float32), steps(torch.bfloat16)]
    found = {name: value for data, _ in parts for name, value in data.items()}
    rows = [row for _, rows in parts for row in rows]
    save("cache", rows, found)


if __name__ == "__main__":
    main()
