"""Decode tokens/s of shardline and of its rivals in one run: two processes of one thread each.

- shardline: `shardline bench chain --nodes 2 --threads 1`, weights in bf16 and in int8
- Transformers: its `generate` in one process with two threads, bf16, the better of two turns
- vLLM on processors, pipeline-parallel 2, bf16
- llama.cpp with two servers for remote procedure calls, bf16, and Q8_0 beside our int8

Rivals other than Transformers are optional: `--install DIR` puts them into a folder, `--peers DIR`
measures those that are there. All decode the same made-up weights after prompts of 19 tokens
(vLLM's are longer where `rivals_vllm.py` says), and each batch is measured while all its sequences
write. vLLM compiles when it starts; what it compiled stays in the peers' folder for the next time.

`python -m benchmarks.rivals [--shape tinyllama-1.1b] [--batches 1,4,8,16] [--peers DIR] [--json]`
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.reporting import save
from benchmarks.rivals_llama import KINDS, llama_tokens_per_s
from benchmarks.rivals_peers import LeftOut, Peers, Scene, install, run
from shardline.cli.bench_crowd import SETTLE_TOKENS, rate
from shardline.cli.bench_shapes import SHAPES, SHIPPED, shaped_model
from shardline.cli.bench_wanted import numbers
from shardline.cli.options import home

VLLM_SCRIPT = Path(__file__).parent / "rivals_vllm.py"
WHO = ("shardline", "vllm", "llama.cpp")
BATCH_MAX = 64
LLAMA_AHEAD = {"bf16": (8, 16), "int8": (1, 8, 16)}
"""Where we are to be ahead of llama.cpp, by weights; of the others everywhere."""
PROMPT_SHORTEST = "32"
"""`bench chain` wants to read a prompt too; nothing here uses it."""
Rates = dict[int, float]
"""Tokens a second by batch."""


@dataclass(slots=True)
class Found:
    """What was measured: of us by weights, of rivals by name and weights."""

    ours: dict[str, Rates] = field(default_factory=dict[str, Rates])
    rivals: dict[tuple[str, str], Rates] = field(default_factory=dict[tuple[str, str], Rates])
    left_out: dict[str, str] = field(default_factory=dict[str, str])
    notes: dict[str, Any] = field(default_factory=dict[str, Any])


def measure_shardline(scene: Scene, found: Found) -> None:
    """Two nodes, and Transformers in the same turn."""
    for weights in ("bf16", "int8"):
        say(f"shardline, {weights}, and Transformers")
        report = chain(scene, weights)
        found.notes[f"shardline, {weights}"] = report
        rows = report["batches"]
        found.ours[weights] = {row["batch"]: row["tokens_per_s"] for row in rows}
        alone = {row["batch"]: row["hf_tokens_per_s"] for row in rows}
        best = found.rivals.setdefault(("Transformers", "bf16"), alone)
        best.update({batch: max(best[batch], alone[batch]) for batch in alone})


def chain(scene: Scene, weights: str) -> dict[str, Any]:
    """The report of `shardline bench chain`."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "report.json"
        asked = ["--nodes", "2", "--threads", "1", "--model", scene.model, "--weights", weights]
        asked += ["--batches", scene.listed, "--tokens", str(scene.tokens)]
        asked += ["--prompts", PROMPT_SHORTEST, "--out", out]
        run([sys.executable, "-m", "shardline.cli", "bench", "chain", *asked])
        return json.loads(out.read_text())


def measure_vllm(scene: Scene, found: Found) -> None:
    """Two workers, each kept to a core of its own if there are two."""
    say("vLLM, bf16")
    python = scene.peers.python()
    assert scene.peers.folder is not None
    cores = sorted(os.sched_getaffinity(0))
    cache = scene.peers.folder / "vllm-cache"
    env = {
        "VLLM_CPU_OMP_THREADS_BIND": f"{cores[0]}|{cores[-1]}",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CACHE_ROOT": str(cache),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "written.json"
        asked = ["--batches", scene.listed, "--tokens", str(scene.tokens + SETTLE_TOKENS)]
        run([python, "-P", VLLM_SCRIPT, scene.model, out, *asked], env)
        told = json.loads(out.read_text())
    found.notes["vLLM"] = told["version"]
    found.rivals["vLLM", "bf16"] = {
        int(batch): rate([at_s[SETTLE_TOKENS - 1 :] for at_s in stamps], [1] * len(stamps))
        for batch, stamps in told["written_s"].items()
    }


def measure_llama(scene: Scene, found: Found) -> None:
    """Two servers, with each of the weights that we have too."""
    for weights, theirs in KINDS.items():
        say(f"llama.cpp, {theirs}")
        found.rivals["llama.cpp", weights] = llama_tokens_per_s(scene, weights)


def table(found: Found) -> list[tuple[str, str, str]]:
    """Every number once, and beside each rival's how far we are ahead."""
    rows = [
        (f"shardline, {weights}, {batch} at once", f"{speed:.1f} tokens/s", "")
        for weights, rates in found.ours.items()
        for batch, speed in rates.items()
    ]
    for (name, weights), rates in found.rivals.items():
        ours = found.ours.get(weights, {})
        named = KINDS[weights] if name == "llama.cpp" else weights
        for batch, theirs in rates.items():
            ratio = f"; ours {ours[batch] / theirs:.2f} x" if batch in ours else ""
            wanted = name != "llama.cpp" or batch in LLAMA_AHEAD[weights]
            goal = "ours above 1 x" if wanted else ""
            rows.append(
                (f"{name}, {named}, {batch} at once", f"{theirs:.1f} tokens/s{ratio}", goal)
            )
    return rows + [(name, f"left out: {why}", "") for name, why in found.left_out.items()]


def say(text: str) -> None:
    """What is being measured, to whoever waits."""
    print(text, file=sys.stderr, flush=True)


def asked_for() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    shapes = [shape for shape in SHAPES if shape != SHIPPED]
    parser.add_argument("--shape", choices=shapes, default="tinyllama-1.1b")
    parser.add_argument("--batches", default="1,4,8,16")
    parser.add_argument("--tokens", type=int, default=24, help="of each sequence, that count")
    parser.add_argument("--peers", type=Path, help="where --install put the rivals")
    parser.add_argument("--only", choices=WHO, action="append", help="saves no report")
    parser.add_argument("--install", type=Path, metavar="DIR", help="put them there, and end")
    parser.add_argument("--json", action="store_true", help="print numbers; saves no report")
    return parser.parse_args()


def main() -> None:
    """Measure, print and save."""
    asked = asked_for()
    if asked.install is not None:
        install(asked.install.resolve())
        return
    batches = numbers(asked.batches, BATCH_MAX)
    model = shaped_model(asked.shape, home() / "models", say)
    peers = Peers(asked.peers and asked.peers.resolve())
    scene, found = Scene(model, batches, asked.tokens, peers), Found()
    measures = dict(zip(WHO, (measure_shardline, measure_vllm, measure_llama), strict=True))
    chosen = asked.only or WHO
    for name in chosen:
        try:
            measures[name](scene, found)
        except LeftOut as why:
            found.left_out[name] = str(why)
    data = {
        "shardline": found.ours,
        "rivals": {f"{name}, {weights}": rates for (name, weights), rates in found.rivals.items()},
        "left_out": found.left_out,
        "notes": found.notes,
    }
    rows = table(found)
    if asked.json:
        print(json.dumps(data))
    elif asked.only:
        print("\n".join(f"| {what} | {measured} | {goal} |" for what, measured, goal in rows))
    else:
        save("rivals", rows, data)


if __name__ == "__main__":
    main()
