"""What a node holds and how soon it serves: a third of a 1.1B-parameter model against the whole.

A random Llama of TinyLlama's shape in bfloat16 is written once. One process loads the whole of it
with Transformers; three nodes serve a third each. Both read the same prompt and write the same few
tokens, and then the memory of the one process and of the first node are compared. The first node's
time from its start, alone, to READY is compared with a plain read of the same bytes. Files are
dropped from the page cache before each.

`python -m benchmarks.span_load [--keep FOLDER]`
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import psutil
import torch
from safetensors import safe_open

from benchmarks.reporting import save
from benchmarks.shapes import tinyllama, write_model
from shardline.cli.local import local_swarm
from shardline.core.spans import Span

SPANS = [Span(0, 7), Span(7, 14), Span(14, 22)]
SPAN = SPANS[0]
SHARE_GOAL = 0.45
MIB = 2**20

WHOLE = """
import json, sys, torch
from transformers import AutoModelForCausalLM
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
model.generate(torch.ones(1, 64, dtype=torch.long), max_new_tokens=4, min_new_tokens=4)
import psutil
print(json.dumps(psutil.Process().memory_info().rss))
"""


def forget_pages(folder: Path) -> None:
    """Drop the model's files from the page cache."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_s(folder: Path) -> tuple[float, int]:
    """Seconds to read the span's own tensors from the disk, and how many bytes they are."""
    wanted = tuple(f"model.layers.{block}." for block in range(SPAN.start, SPAN.stop))
    started_s, size = time.perf_counter(), 0
    for path in sorted(folder.glob("*.safetensors")):
        with cast("Any", safe_open(path, "pt")) as opened:
            for name in opened.keys():  # noqa: SIM118  (no mapping)
                if name.startswith(wanted):
                    size += opened.get_tensor(name).clone().nbytes
    return time.perf_counter() - started_s, size


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="where the model is, or is put for the next time")
    keep = parser.parse_args().keep
    with tempfile.TemporaryDirectory() as scratch:
        folder = keep or Path(scratch)
        if not (folder / "config.json").exists():
            write_model(tinyllama(blocks=22, vocabulary=32_000), folder, torch.bfloat16)
        forget_pages(folder)
        plain_s, size = read_s(folder)
        whole = subprocess.run(
            [sys.executable, "-c", WHOLE, str(folder)], capture_output=True, text=True, check=True
        )
        whole_bytes = int(json.loads(whole.stdout))
        forget_pages(folder)
        started_s = time.perf_counter()
        with local_swarm(folder, [SPAN], dtype="bfloat16"):
            ready_s = time.perf_counter() - started_s
        with local_swarm(folder, SPANS, dtype="bfloat16") as local:
            model = local.swarm.model_now(str(folder))
            prompt = torch.ones(1, 64, dtype=torch.long)
            model.generate(prompt, max_new_tokens=4, min_new_tokens=4)
            part_bytes = psutil.Process(local.processes["ada"].pid).memory_info().rss
    share = part_bytes / whole_bytes
    limit_s = 1.5 * plain_s + 5
    rows = [
        ("whole model in one process", f"{whole_bytes / MIB:.0f} MiB", ""),
        (f"node with blocks {SPAN} of 22", f"{part_bytes / MIB:.0f} MiB", ""),
        ("share of the whole", f"{share:.0%}", f"under {SHARE_GOAL:.0%}"),
        (f"plain read of its {size / MIB:.0f} MiB", f"{plain_s:.2f} s", ""),
        ("process start to READY", f"{ready_s:.2f} s", f"at most {limit_s:.2f} s"),
    ]
    data = {"whole_bytes": whole_bytes, "part_bytes": part_bytes, "read_s": plain_s}
    save("span load", rows, data | {"ready_s": ready_s})


if __name__ == "__main__":
    main()
