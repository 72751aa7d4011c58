"""What 8-bit transfers do to a trained model's text: the shipped model, float32, beside raw ones.

The chain is in this process: spans, and between them what `pack` writes and `unpack` reads, so the
values are those of real nodes. Of so many prompts it compares whole greedy texts and, on the texts
that raw writes, at each place the likeliest token and all logits. "last link raw" keeps the values
exact that come back to the caller; "1 link" is the way to a single node, with that alone coarse.

`python -m benchmarks.wires [--prompts 20] [--tokens 60]`
"""

from __future__ import annotations

import argparse
import itertools
import weakref
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.reporting import save
from shardline.cli.demo import shipped_model
from shardline.cli.local import unequal_spans
from shardline.codec import encoder, pack, unpack
from shardline.model import Crossing, Returned, load_ends, load_span, load_tokenizer, trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import Cache

    from shardline.codec import Encoder
    from shardline.core.spans import Span

CPU = torch.device("cpu")
OPENINGS = ("One cold morning,", "The old dog and", "It was raining when", "At the market,", "Once")
NAMES = ("Anna", "Ben", "Rosa", "the fox")
Row = tuple[str, str, str]


class Chain:
    """Nodes in a row without a network; `wires` are the codecs of the links, the caller's first."""

    def __init__(
        self, spans: Sequence[Span], wires: Sequence[Encoder], dtype: torch.dtype = torch.float32
    ) -> None:
        plan = trace(shipped_model())
        self._spans = [load_span(plan, span, dtype=dtype, device=CPU) for span in spans]
        self._wires = wires
        self._caches: weakref.WeakKeyDictionary[Cache, list[Any]] = weakref.WeakKeyDictionary()
        self.ends: Any = load_ends(plan, self._run, dtype=dtype, device=CPU)

    def _run(self, cache: Cache | None, crossing: Crossing) -> Returned:
        held: list[Any] = [None] * len(self._spans)
        if cache is not None:
            fresh = [span.new_cache() for span in self._spans]
            held = self._caches.setdefault(cache, fresh)
        out: Crossing | Returned = crossing
        for span, wire, own in zip(self._spans, self._wires, held, strict=False):
            assert isinstance(out, Crossing)
            crossed = unpack(pack(out.to_tree(), out.carried, wire))
            out = span.run(Crossing.from_tree(crossed), own)
        assert isinstance(out, Returned)
        return Returned.from_tree(unpack(pack(out.to_tree(), out.carried, self._wires[-1])))

    def text(self, prompt: torch.Tensor, tokens: int) -> list[int]:
        """What it writes after the prompt, greedily; a text that has an end may end."""
        return self.ends.generate(prompt, max_new_tokens=tokens, do_sample=False)[0].tolist()

    def logits(self, text: list[int]) -> torch.Tensor:
        """(tokens, vocabulary), in one forward."""
        with torch.no_grad():
            return self.ends(input_ids=torch.tensor([text]), use_cache=False).logits[0].float()


def compare(
    chain: Chain, texts: Sequence[list[int]], logits: Sequence[torch.Tensor]
) -> dict[str, float]:
    """The likeliest tokens and the logits on these texts against the exact ones."""
    agree, places, most, squares, spread = 0, 0, 0.0, 0.0, 0.0
    for text, exact in zip(texts, logits, strict=True):
        ours = chain.logits(text)
        agree += int((ours.argmax(-1) == exact.argmax(-1)).sum())
        places += len(text)
        most = max(most, float((ours - exact).abs().max()))
        squares += float((ours - exact).square().mean(-1).sum())
        spread += float(exact.var(-1).sum())
    return {
        "places": places,
        "likeliest_equal": agree / places,
        "logit_error_max": most,
        "logit_error_rms": (squares / places) ** 0.5,
        "logit_spread_rms": (spread / places) ** 0.5,
    }


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=60)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    raw, int8 = encoder("raw"), encoder("int8")
    spans = {count: unequal_spans(trace(shipped_model()).blocks, count) for count in (1, 2, 3, 8)}
    tokenizer = load_tokenizer(shipped_model())
    starts = itertools.islice(itertools.product(OPENINGS, NAMES), asked.prompts)
    prompts = [torch.tensor([tokenizer(" ".join(start))["input_ids"]]) for start in starts]
    exact = Chain(spans[3], [raw] * 4)
    texts = [exact.text(prompt, asked.tokens) for prompt in prompts]
    logits = [exact.logits(text) for text in texts]
    chains = {
        "bfloat16, raw, 3 nodes": Chain(spans[3], [raw] * 4, torch.bfloat16),
        "1 link": Chain(spans[1], [int8, raw]),
        "2 nodes": Chain(spans[2], [int8] * 3),
        "3 nodes": Chain(spans[3], [int8] * 4),
        "3 nodes, last link raw": Chain(spans[3], [int8] * 3 + [raw]),
        "3 nodes, blocks of 64": Chain(spans[3], [encoder("int8", block=64)] * 4),
        "8 nodes": Chain(spans[8], [int8] * 9),
    }
    found: dict[str, dict[str, float]] = {}
    rows: list[Row] = []
    for name, chain in chains.items():
        one = found[name] = compare(chain, texts, logits)
        error = f"{one['logit_error_rms']:.3f} rms, {one['logit_error_max']:.2f} at most"
        spread = f"{one['logit_spread_rms']:.2f}"
        measured = f"{one['likeliest_equal']:.1%} of {one['places']}; logits off by {error}"
        rows.append((f"{name}: likeliest token equal", measured, f"logits spread {spread}"))
    for name in ("2 nodes", "3 nodes"):
        same = [
            chains[name].text(p, asked.tokens) == t for p, t in zip(prompts, texts, strict=True)
        ]
        found[name]["texts_equal"] = sum(same)
        rows.append((f"{name}: whole texts equal", f"{sum(same)} of {len(texts)}", ""))
    save("wires", rows, found)


if __name__ == "__main__":
    main()
