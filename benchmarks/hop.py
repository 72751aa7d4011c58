"""What a hop costs beside the network: one token of hidden size 4,096 through three nodes.

The blocks are so thin that they compute next to nothing. The overhead of a link is the time of a
step that no node spent computing, over the number of links: it holds both codecs, the frames, the
sealing, the queues and the wake-ups of both ends. The floor is the same bytes to and fro over a
plain TCP socket between two processes, in the same run.

`python -m benchmarks.hop [--steps 300]`
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.reporting import save
from shardline.cli.local import local_swarm
from shardline.core.spans import Span

HIDDEN = 4096
GOAL_MS = 1.0


def thin_model(folder: Path) -> None:
    """Three blocks of width 4,096 with one small head each."""
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=HIDDEN,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=2048,
    )
    cast("Any", LlamaForCausalLM(config)).to(torch.bfloat16).save_pretrained(folder)


def _echo(listener: socket.socket, size: int) -> None:
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := connection.recv(size, socket.MSG_WAITALL):
        connection.sendall(data)


def tcp_floor_ms(size: int, steps: int) -> float:
    """Median one-way time of so many bytes over a loopback socket, in ms."""
    listener = socket.create_server(("127.0.0.1", 0))
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_echo, args=(listener, size), daemon=True)
    process.start()
    with socket.create_connection(listener.getsockname()) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        times: list[float] = []
        for _ in range(steps):
            started_s = time.perf_counter()
            connection.sendall(b"x" * size)
            connection.recv(size, socket.MSG_WAITALL)
            times.append((time.perf_counter() - started_s) / 2)
    process.join(2)
    return 1e3 * statistics.median(times)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args().steps
    floor_ms = tcp_floor_ms(HIDDEN * 2, steps)  # first: nothing may fork after the engine starts
    with tempfile.TemporaryDirectory() as folder:
        thin_model(Path(folder))
        spans = [Span(0, 1), Span(1, 2), Span(2, 3)]
        with local_swarm(Path(folder), spans, dtype="bfloat16") as local:
            torch.set_num_threads(1)
            model = local.swarm.model_now(folder)
            prompt = torch.ones(1, 8, dtype=torch.long)
            model.generate(prompt, max_new_tokens=50, min_new_tokens=50)  # warm up
            model.generate(prompt, max_new_tokens=steps, min_new_tokens=steps)
            assert model.last is not None
            decode = model.last.steps[1:]
    overheads = sorted(step.overhead_ms for step in decode)
    p50, p90 = statistics.median(overheads), overheads[int(0.9 * len(overheads))]
    kib = statistics.median(step.moved_bytes for step in decode) / 2**10 / 4
    rows = [
        ("overhead of a link, median", f"{p50:.2f} ms", f"at most {GOAL_MS} ms"),
        ("overhead of a link, 90th percentile", f"{p90:.2f} ms", ""),
        ("bytes on a link", f"{kib:.1f} KiB", ""),
        ("plain TCP, one way, no codec, no sealing", f"{floor_ms:.3f} ms", "the floor"),
    ]
    data = {"steps": len(decode), "p50_ms": p50, "p90_ms": p90, "tcp_ms": floor_ms}
    save("hop overhead", rows, data)


if __name__ == "__main__":
    main()
