"""vLLM's side of `benchmarks.rivals`: when it wrote each token, in an environment of its own.

Two worker processes of one thread each hold half of the blocks (pipeline-parallel 2). All sequences
of a batch are asked for at once, and decode greedily to the same length. vLLM's two stages work at
the same time only if the sequences came to it in two groups, so a step takes at most as many tokens
as half of the prompts: without that, the second stage sleeps while the first works.

Run by that environment's Python, where nothing of shardline is installed:
`python -P rivals_vllm.py MODEL OUT --batches 1,4,8,16 --tokens 26`
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import time
from pathlib import Path
from typing import Any

PROMPT_TOKENS = 19
"""At least; batches smaller than the largest have longer prompts, so that all halves are alike."""
CONTEXT_TOKENS = 1_024
STAGES = 2


def prompt_tokens(batch: int, most: int) -> int:
    """Of each of a batch: the whole batch's are as many as the largest batch's, but for 1."""
    return PROMPT_TOKENS * (most // batch if batch > 1 else 1)


def written_s(llm: Any, batch: int, prompt: int, tokens: int, vocabulary: int) -> list[list[float]]:  # noqa: ANN401
    """When each token of each sequence came, in seconds of one clock."""
    vllm: Any = importlib.import_module("vllm")
    engine, luck = llm.llm_engine, random.Random(batch)  # noqa: S311
    wanted = {"temperature": 0.0, "max_tokens": tokens, "ignore_eos": True, "detokenize": False}
    for index in range(batch):
        ids = [luck.randrange(vocabulary) for _ in range(prompt)]
        engine.add_request(
            f"{batch}-{index}", {"prompt_token_ids": ids}, vllm.SamplingParams(**wanted)
        )
    came: dict[str, list[float]] = {}
    while engine.has_unfinished_requests():
        outputs = engine.step()
        now_s = time.perf_counter()
        for output in outputs:
            stamps = came.setdefault(output.request_id, [])
            fresh = len(output.outputs[0].token_ids) - len(stamps)
            stamps += [now_s] * fresh
    return list(came.values())


def main() -> None:
    """Measure, and write `OUT`: by batch, when each token of each sequence came."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--batches", required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    asked = parser.parse_args()
    batches = [int(number) for number in asked.batches.split(",")]
    most = max(batches)
    vllm: Any = importlib.import_module("vllm")
    llm = vllm.LLM(
        model=str(asked.model),
        skip_tokenizer_init=True,
        dtype="bfloat16",
        pipeline_parallel_size=STAGES,
        distributed_executor_backend="mp",
        max_model_len=CONTEXT_TOKENS,
        max_num_seqs=most,
        max_num_batched_tokens=max(PROMPT_TOKENS * most // STAGES, most),
        enable_chunked_prefill=True,
        enable_prefix_caching=False,
        enforce_eager=asked.eager,
    )
    vocabulary = json.loads((asked.model / "config.json").read_text())["vocab_size"]
    written_s(llm, 1, PROMPT_TOKENS, 4, vocabulary)  # the first step is slow
    found = {
        str(batch): written_s(llm, batch, prompt_tokens(batch, most), asked.tokens, vocabulary)
        for batch in batches
    }
    asked.out.write_text(json.dumps({"version": vllm.__version__, "written_s": found}))


if __name__ == "__main__":
    main()
