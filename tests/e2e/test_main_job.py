"""The main job: real node processes on loopback, the shipped model, the tokens of one process."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, cast

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from shardline.cli.demo import shipped_model
from shardline.cli.local import local_swarm, unequal_spans
from shardline.model import load_tokenizer, trace

PROMPTS = ["One morning, Anna", "The old dog", "It was raining when the"]
END_S = 20.0


@cache
def whole() -> Any:
    return cast("Any", AutoModelForCausalLM).from_pretrained(shipped_model(), dtype=torch.float32)


def seed(number: int) -> None:
    cast("Any", torch).manual_seed(number)


def encoded(prompt: str) -> torch.Tensor:
    return torch.tensor([load_tokenizer(shipped_model())(prompt)["input_ids"]])


@pytest.mark.parametrize("nodes", [1, 2, 3, pytest.param(5, marks=pytest.mark.long)])
def test_the_tokens_are_those_of_one_process(nodes: int) -> None:
    spans = unequal_spans(trace(shipped_model()).blocks, nodes)
    with local_swarm(shipped_model(), spans) as local:
        model = local.swarm.model_now(str(shipped_model()))
        for prompt in PROMPTS:
            ids = encoded(prompt)
            greedy = {"max_new_tokens": 60, "do_sample": False}
            assert torch.equal(model.generate(ids, **greedy), whole().generate(ids, **greedy))
            assert model.last is not None
            assert [hop.span for hop in model.last.chain] == spans
        ids = encoded(PROMPTS[0])
        sampling = {"max_new_tokens": 40, "do_sample": True, "temperature": 0.9, "top_p": 0.9}
        seed(7)
        ours = model.generate(ids, **sampling)
        seed(7)
        assert torch.equal(ours, whole().generate(ids, **sampling))


def test_many_sessions_at_once_have_the_tokens_that_each_has_alone() -> None:
    texts = [
        *PROMPTS,
        PROMPTS[0] + " went to the market and",
        "Ben",
        PROMPTS[1] + " slept. The cat",
    ]
    with local_swarm(shipped_model(), unequal_spans(trace(shipped_model()).blocks, 2)) as local:

        def write(text: str) -> tuple[torch.Tensor, int]:
            torch.set_num_threads(1)
            model = local.swarm.model_now(str(shipped_model()))
            ids = model.generate(encoded(text), max_new_tokens=30, do_sample=False)
            assert model.last is not None
            return ids, max(step.beside for step in model.last.steps)

        with ThreadPoolExecutor(len(texts)) as threads:
            found = list(threads.map(write, texts))
    for text, (ids, _) in zip(texts, found, strict=True):
        expected = whole().generate(encoded(text), max_new_tokens=30, do_sample=False)
        assert torch.equal(ids, expected)
    assert max(beside for _, beside in found) > 0, "no two of them were ever computed together"


def test_a_conversation_goes_on_from_the_cache_on_the_nodes() -> None:
    with local_swarm(shipped_model(), unequal_spans(trace(shipped_model()).blocks, 2)) as local:
        model = local.swarm.model_now(str(shipped_model()))
        ours = DynamicCache(config=model.plan.config)
        first = model.generate(encoded(PROMPTS[0]), max_new_tokens=20, past_key_values=ours)
        more = torch.cat([first, encoded(PROMPTS[1])], dim=1)
        again = model.generate(more, max_new_tokens=20, past_key_values=ours)
        assert model.last is not None
        goes_on = model.last.steps[0].moved_bytes
        anew = model.generate(more, max_new_tokens=20)
        reads_all = model.last.steps[0].moved_bytes
    assert torch.equal(again, anew)
    assert torch.equal(again, whole().generate(more, max_new_tokens=20))
    assert goes_on < reads_all / 3, "the first turn crossed the links again"


def test_the_demo_says_on_one_line_that_the_tokens_are_equal() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shardline.cli", "demo", "--nodes", "3", "--json"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["tokens_equal"] is True
    assert len(report["mended"]) == 1, "no node died"
    assert [(hop["start"], hop["stop"]) for hop in report["chain"]] == [
        (span.start, span.stop) for span in unequal_spans(trace(shipped_model()).blocks, 3)
    ]
    assert report["tokens_per_s"] > 0
    assert report["time_to_first_token_s"] > 0
    assert report["hop_overhead_ms"] > 0
    assert report["text"].startswith("One cold morning, Anna")


def test_nodes_end_with_the_process_that_started_them_however_it_ends() -> None:
    script = (
        "import sys, time\n"
        "from shardline.cli.demo import shipped_model\n"
        "from shardline.cli.local import local_swarm\n"
        "from shardline.core.spans import Span\n"
        "with local_swarm(shipped_model(), [Span(0, 2), Span(2, 5)]) as local:\n"
        "    print(*(process.pid for process in local.processes.values()), flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        nodes = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(nodes) == 2
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    _, alive = psutil.wait_procs(nodes, END_S)
    for node in alive:
        node.kill()
    assert not alive
