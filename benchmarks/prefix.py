"""What a shared prefix saves: time to the first token of 16 prompts that begin alike.

Two node processes of one thread each hold four blocks of TinyLlama-1.1B's shape, weights random.
One caller reads one prompt after the other; the nodes keep the prefix after the first. The last
ones are read again by a caller that shares nothing, for their texts and times.

`python -m benchmarks.prefix [--sessions 16] [--tokens 1024]`
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.reporting import save
from benchmarks.shapes import tinyllama, write_model
from shardline.cli.local import local_swarm
from shardline.core.spans import Span

if TYPE_CHECKING:
    from shardline.client import Generation, SwarmModel

BLOCKS = 4
OWN_TOKENS = 16
NEW_TOKENS = 4
AGAIN = 2
GOAL = 10.0


def read(model: SwarmModel, prompt: torch.Tensor) -> tuple[list[int], Generation]:
    """What it writes after a prompt, and how that went."""
    settings = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    out = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
    assert model.last is not None
    return out[0, prompt.shape[1] :].tolist(), model.last


def measure(place: Path, sessions: int, tokens: int) -> dict[str, Any]:
    """Seconds, bytes and texts of all prompts."""
    shared = torch.randint(3, 4_000, (1, tokens))
    prompts = [
        torch.cat([shared, torch.randint(3, 4_000, (1, OWN_TOKENS))], dim=1)
        for _ in range(sessions)
    ]
    half = BLOCKS // 2
    with local_swarm(place, [Span(0, half), Span(half, BLOCKS)]) as local:
        alone = local.swarm.model_now(str(place))
        read(alone, prompts[0][:, :OWN_TOKENS])  # weights are read, links are dialled
        model = local.swarm.model_now(str(place), share_prefixes=True)
        went = [read(model, prompt) for prompt in prompts]
        again = [read(alone, prompt) for prompt in prompts[-AGAIN:]]
    return {
        "first_token_s": [how.time_to_first_token_s for _, how in went],
        "shared_tokens": [how.shared_tokens for _, how in went],
        "first_step_bytes": [how.steps[0].moved_bytes for _, how in went],
        "unshared_first_token_s": [how.time_to_first_token_s for _, how in again],
        "texts_equal": [
            one == other for (one, _), (other, _) in zip(went[-AGAIN:], again, strict=True)
        ],
    }


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=1_024)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="shardline-prefix-") as folder:
        config = tinyllama(blocks=BLOCKS, vocabulary=4_096, positions=8_192)
        write_model(config, Path(folder), torch.float32)
        found = measure(Path(folder), asked.sessions, asked.tokens)
    first, *later = found["first_token_s"]
    unshared = statistics.median(found["unshared_first_token_s"])
    ratio = first / statistics.median(later)
    sent, *less = found["first_step_bytes"]
    equal = f"{sum(found['texts_equal'])} of {len(found['texts_equal'])}"
    rows = [
        ("time to first token, the first session", f"{first:.2f} s", ""),
        (f"the {len(later)} after it, median", f"{statistics.median(later):.3f} s", ""),
        ("the slowest of them", f"{max(later):.3f} s", ""),
        ("first over later, median", f"{ratio:.1f} x", f"at least {GOAL:.0f} x"),
        ("the last ones without sharing", f"{unshared:.2f} s", ""),
        ("bytes of the first step, first and later", f"{sent:,} and {max(less):,}", ""),
        ("texts equal with and without sharing", equal, "all"),
    ]
    save("prefix", rows, found)


if __name__ == "__main__":
    main()
