"""llama.cpp's side of `benchmarks.rivals`: two servers of one thread, half of a model in each.

llama.cpp's own converter writes the weights, and the files stay in the peers' folder. Its own
benchmark drives the servers with all sequences in one step, as its server does too; reading the
prompts is not counted.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from benchmarks.rivals_peers import LeftOut, run
from shardline.cli.bench_crowd import PROMPT_TOKENS

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from benchmarks.rivals_peers import Peers, Scene

__all__ = ["KINDS", "llama_tokens_per_s"]

KINDS = {"bf16": "BF16", "int8": "Q8_0"}
"""Our weights, and what llama.cpp has for them."""
SERVERS = 2
START_S = 30.0
POLL_S = 0.05
SEQUENCE_TOKENS = 256
"""Room for each sequence: llama.cpp rounds up to it."""

CONVERT = """
import pathlib, sys
import gguf, torch
from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
source, made = map(pathlib.Path, sys.argv[1:3])
name = get_model_architecture(ModelBase.load_hparams(source, False), ModelType.TEXT)
kind = get_model_class(name)
kind.set_vocab = kind._set_vocab_none
with torch.inference_mode():
    kind(source, gguf.LlamaFileType["MOSTLY_" + sys.argv[3]], made).write()
"""
"""Made-up weights have no words: the vocabulary is a number only."""


def llama_tokens_per_s(scene: Scene, weights: str) -> dict[int, float]:
    """Tokens a second of all sequences together, by batch; raises LeftOut."""
    peers = scene.peers
    bench, server = peers.tool("llama-batched-bench"), peers.tool("ggml-rpc-server")
    file = _converted(peers, scene.model, KINDS[weights])
    with _servers(server) as places:
        asked = {
            "--model": file,
            "--rpc": ",".join(places),
            "--n-gpu-layers": 999,
            "--tensor-split": ",".join(["1"] * SERVERS),
            "--threads": 1,
            "--ctx-size": SEQUENCE_TOKENS * max(scene.batches),
            "--fit": "off",
            "--output-format": "jsonl",
            "-npp": PROMPT_TOKENS,
            "-ntg": scene.tokens,
            "-npl": scene.listed,
        }
        out = run([bench, *(str(part) for pair in asked.items() for part in pair)])
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    if [line["pl"] for line in lines] != list(scene.batches):
        raise LeftOut("llama-batched-bench did not measure all batches")
    return {line["pl"]: line["speed_tg"] for line in lines}


def _converted(peers: Peers, model: Path, kind: str) -> Path:
    """The model in llama.cpp's format, written the first time."""
    assert peers.folder is not None
    wanted = peers.folder / f"{model.name}-{kind}.gguf"
    if not wanted.exists():
        made, source = wanted.with_suffix(".part"), peers.llama()
        paths = {"PYTHONPATH": f"{source}:{source / 'gguf-py'}"}
        run([sys.executable, "-P", "-c", CONVERT, model, made, kind], paths)
        made.rename(wanted)
    return wanted


@contextlib.contextmanager
def _servers(server: Path) -> Generator[list[str]]:
    """Where so many servers listen, until the end."""
    ports = _free_ports(SERVERS)
    with contextlib.ExitStack() as stack:
        for port in ports:
            command = [server, "--host", "127.0.0.1", "--port", str(port), "--threads", "1"]
            quiet = subprocess.DEVNULL
            process = stack.enter_context(subprocess.Popen(command, stdout=quiet, stderr=quiet))
            stack.callback(process.kill)
        for port in ports:
            _wait_for(port)
        yield [f"127.0.0.1:{port}" for port in ports]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in held]


def _wait_for(port: int) -> None:
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(POLL_S)
    raise LeftOut(f"llama.cpp's server did not listen within {START_S:.0f} s")
