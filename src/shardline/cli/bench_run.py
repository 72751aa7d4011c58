"""What `shardline bench node` and `bench chain` do, in its order: bounds, nodes, Transformers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import psutil
import torch

from shardline.cli.bench_arrivals import measure_arrivals, scripts_of
from shardline.cli.bench_bounds import best_rates, measure_rates, python_ms_per_layer, work_of
from shardline.cli.bench_crowd import PROMPT_TOKENS, SETTLE_TOKENS, crowd, decode, prompts_of
from shardline.cli.bench_wanted import dtype_of, own_cores, serve_options
from shardline.cli.local import local_swarm
from shardline.core.errors import BadInput
from shardline.core.spans import Span
from shardline.model import quiet, resolve, setup_of, trace
from shardline.node import open_device

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardline.cli.bench_bounds import Rates, Work
    from shardline.cli.bench_crowd import Went
    from shardline.cli.bench_wanted import Wanted
    from shardline.cli.local import LocalSwarm
    from shardline.cli.progress import Progress
    from shardline.client import SwarmModel
    from shardline.model import ChainPlan

__all__ = ["even_spans", "run"]


@dataclass(frozen=True, slots=True)
class _Scene:
    """What is measured, and on what."""

    plan: ChainPlan
    wanted: Wanted
    dtype: torch.dtype
    device: torch.device
    progress: Progress

    @property
    def sessions(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Each batch, and the prompts of its sessions."""
        for batch in self.wanted.batches:
            prompts = prompts_of(batch, PROMPT_TOKENS, self.plan.vocabulary, seed=batch)
            yield batch, prompts.to(self.device)

    @property
    def room(self) -> int:
        """Tokens that a session takes."""
        return PROMPT_TOKENS + self.wanted.tokens + SETTLE_TOKENS

    def rates(self) -> Rates:
        """What the machine can do now."""
        self.progress.say("measuring what memory and processor can do")
        return measure_rates(self.dtype, self.device, quick=self.wanted.quick)


def even_spans(blocks: int, nodes: int) -> list[Span]:
    """Spans that cover all blocks, none more than one block longer than another."""
    ends = [blocks * place // nodes for place in range(nodes + 1)]
    return [Span(start, stop) for start, stop in pairwise(ends)]


def run(model: str, wanted: Wanted, progress: Progress) -> dict[str, Any]:
    """Everything that is asked for, as one report; raises BadInput of many kinds."""
    scene = _scene(model, wanted, progress)
    threads = wanted.threads or max(1, torch.get_num_threads() // wanted.nodes)
    torch.set_num_threads(threads)
    before = scene.rates()
    served = _served(scene, threads)
    best = best_rates(before, scene.rates())
    progress.say("measuring what Python takes")
    python_ms = python_ms_per_layer(scene.plan, scene.dtype, scene.device)
    torch.set_num_threads(threads * wanted.nodes)
    alone = _alone(scene)
    rows = [_row(*each) for each in zip(wanted.batches, served.batches, alone, strict=True)]
    for row, one in zip(rows, served.one_session, strict=False):
        row["one_session_tokens_per_s"] = one.tokens_per_s
    named = scene.plan.model_dir.resolve().name
    work = work_of(scene.plan, scene.dtype, wanted.weights or _name(scene.dtype))
    setup = setup_of(scene.plan, dtype=scene.dtype, device=scene.device)
    return {
        "model": named,
        "weights": wanted.weights or _name(scene.dtype),
        "device": setup.device,
        "torch": setup.torch,
        "threads": threads,
        "callers": wanted.callers,
        "pinned": bool(own_cores(wanted, threads)),
        "nodes": served.nodes,
        "batches": rows,
        "arrivals": served.arrivals,
        "time_to_first_token_s": {str(n): s for n, s in served.first_s.items()},
        "skipped": {str(n): why for n, why in served.skipped.items()},
        "rss_bytes": sum(one["rss_bytes"] for one in served.nodes),
        "hf_tokens_per_s": rows[0]["hf_tokens_per_s"],
        "hf_threads": threads * wanted.nodes,
        "hf_dtype": _name(scene.dtype),
        "python_ms_per_layer": python_ms,
        "quick": wanted.quick,
        **_shares(work, best, rows, served.first_s),
    }


def _shares(
    work: Work | None, rates: Rates, rows: list[dict[str, Any]], first_s: dict[int, float | None]
) -> dict[str, Any]:
    """Of the bounds, where they are known: at one session, and at each prompt."""
    alone = [row["tokens_per_s"] for row in rows if row["batch"] == 1]
    return {
        "read_gb_per_s": rates.read_gb_per_s,
        "matmul_gflop_per_s": rates.matmul_gflop_per_s,
        "decode_bytes": None if work is None else work.decode_bytes,
        "bandwidth_share": work.bandwidth_share(alone[0], rates) if work and alone else None,
        "prefill_share": {
            str(tokens): work.compute_share(tokens, seconds, rates)
            for tokens, seconds in first_s.items()
            if work is not None and seconds is not None
        },
    }


def _scene(model: str, wanted: Wanted, progress: Progress) -> _Scene:
    plan = trace(resolve(model))
    if wanted.nodes > plan.blocks:
        raise BadInput(f"{wanted.nodes} nodes, but the model has {plan.blocks} blocks: give less")
    dtype = dtype_of(wanted.weights) or str(plan.config.dtype).removeprefix("torch.")
    scene = _Scene(
        plan=plan,
        wanted=wanted,
        dtype=torch.float32 if dtype == "float32" else torch.bfloat16,
        device=open_device(wanted.device),
        progress=progress,
    )
    if plan.context_tokens is not None and scene.room > plan.context_tokens:
        most = plan.context_tokens - PROMPT_TOKENS - SETTLE_TOKENS
        raise BadInput(f"--tokens {wanted.tokens} do not fit this model's context: {most} do")
    return scene


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True, slots=True)
class _Served:
    """What was seen of the nodes."""

    nodes: list[dict[str, Any]]
    batches: list[Went]
    one_session: list[Went]
    arrivals: dict[str, Any] | None
    first_s: dict[int, float | None]
    skipped: dict[int, str]


def _served(scene: _Scene, threads: int) -> _Served:
    """Start the nodes, use them, and let them go."""
    wanted = scene.wanted
    spans = even_spans(scene.plan.blocks, wanted.nodes)
    options = ["--device", wanted.device, *serve_options(wanted.weights)]
    scene.progress.say(f"starting {wanted.nodes} node{'s' * (wanted.nodes > 1)}")
    with local_swarm(
        scene.plan.model_dir,
        spans,
        dtype=_name(scene.dtype),
        threads=threads,
        options=options,
        own_options=own_cores(wanted, threads),
    ) as local:
        model = local.swarm.model_now(str(scene.plan.model_dir), device=wanted.device)
        _write(model, prompts_of(1, PROMPT_TOKENS, scene.plan.vocabulary).to(scene.device))
        batches = [_batch(scene, model, prompts) for _, prompts in scene.sessions]
        one_session = [
            _batch(scene, model, prompts, apart=False)
            for _, prompts in scene.sessions
            if wanted.rows
        ]
        arrivals = _arrivals(scene, model) if wanted.arrivals else None
        nodes = _nodes(local, spans)
        first_s, skipped = _first_tokens(scene, model)
    return _Served(nodes, batches, one_session, arrivals, first_s, skipped)


def _nodes(local: LocalSwarm, spans: list[Span]) -> list[dict[str, Any]]:
    """What each node holds, after all sessions at once and before long prompts."""
    return [
        {
            "name": name,
            "blocks": str(span),
            "rss_bytes": psutil.Process(local.processes[name].pid).memory_info().rss,
        }
        for name, span in zip(local.processes, spans, strict=True)
    ]


def _batch(scene: _Scene, model: SwarmModel, prompts: torch.Tensor, *, apart: bool = True) -> Went:
    batch, wanted = len(prompts), scene.wanted
    scene.progress.say(f"{batch} session{'s' * (batch > 1)} at once")
    with quiet(), crowd(model, scene.room, scene.device, apart=apart) as ends:
        return decode(ends, prompts, wanted.tokens, wanted.callers if apart else 1)


def _arrivals(scene: _Scene, model: SwarmModel) -> dict[str, Any]:
    """How the same sessions fare that come together, and at different times."""
    sessions, tokens = scene.wanted.arrivals, scene.wanted.tokens + SETTLE_TOKENS
    prompts = prompts_of(sessions, PROMPT_TOKENS, scene.plan.vocabulary, seed=sessions)
    scene.progress.say(f"noting what {sessions} sessions send")
    with quiet():
        scripts = scripts_of(model, prompts.to(scene.device), tokens, scene.device)
    scene.progress.say(f"{sessions} sessions together, and at random times")
    with model.lend(scene.room) as send:
        found = measure_arrivals(send, scripts)
    return found.told(sessions, tokens)


def _first_tokens(
    scene: _Scene, model: SwarmModel
) -> tuple[dict[int, float | None], dict[int, str]]:
    """Seconds to the first token after a prompt of each length, or why it was left out."""
    first_s: dict[int, float | None] = {}
    skipped: dict[int, str] = {}
    context = scene.plan.context_tokens
    for tokens in scene.wanted.prompts:
        first_s[tokens] = None
        if context is not None and tokens >= context:
            skipped[tokens] = f"left out: the model's context is {context} tokens"
            continue
        scene.progress.say(f"reading a prompt of {tokens} tokens")
        prompt = prompts_of(1, tokens, scene.plan.vocabulary, seed=tokens)
        first_s[tokens] = _write(model, prompt.to(scene.device))
    return first_s, skipped


def _write(model: SwarmModel, prompt: torch.Tensor) -> float:
    """Write one token after a prompt (1, tokens), and say how many seconds that took."""
    mask = torch.ones_like(prompt)
    with quiet():
        model.generate(prompt, attention_mask=mask, max_new_tokens=1, do_sample=False)
    assert model.last is not None
    return model.last.time_to_first_token_s


def _alone(scene: _Scene) -> list[Went]:
    """The same prompts by Transformers' `generate`, in this process."""
    from transformers import AutoModelForCausalLM

    with quiet():
        scene.progress.say("loading the model into Transformers")
        automatic = cast("Any", AutoModelForCausalLM)
        whole = automatic.from_pretrained(scene.plan.model_dir, dtype=scene.dtype)
        whole = whole.eval().to(scene.device)
        found: list[Went] = []
        for batch, prompts in scene.sessions:
            scene.progress.say(f"{batch} at once in Transformers")
            found.append(decode(whole, prompts, scene.wanted.tokens))
        return found


def _row(batch: int, ours: Went, alone: Went) -> dict[str, Any]:
    equal = (ours.tokens == alone.tokens).float().mean().item()
    return {
        "batch": batch,
        "tokens_per_s": ours.tokens_per_s,
        "hf_tokens_per_s": alone.tokens_per_s,
        "tokens_equal": equal,
    }
