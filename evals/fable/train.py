"""Train the shipped model: `python -m evals.fable.train --work build/fable --out models/fable-2m`.

Plain PyTorch over Transformers' Llama. The schedule follows the clock, not the steps: warm-up, a
plateau, then a straight line down to zero at `--minutes`, whatever the machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import time
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import safetensors.torch as storage
import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from evals.fable.documents import FIRST_LESSONS, MIX
from evals.fable.tokens import (
    ANSWER_BIT,
    CONTEXT_TOKENS,
    VOCABULARY,
    pack,
    save_tokenizer,
    train_tokenizer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch.optim import Optimizer

__all__ = ["Settings", "main", "model_config", "train"]

SHARD_TOKENS = 1_000_000
LOG_STEPS = 20
POOL_STEPS = 16
BEGIN, PAD = 0, 2


@dataclass(frozen=True, slots=True)
class Settings:
    """One training run; the defaults are the shipped model's."""

    work: str
    out: str
    minutes: float = 90.0
    seed: int = 0
    first_shard: int = 0  # go on after the shards that an earlier run has read
    resume: bool = False  # start from `work`/checkpoint.safetensors
    layers: int = 8
    shallow_layers: int = 4  # to begin with: twice as fast, and enough to learn to copy
    shallow: float = 0.25  # share of the time until the other layers are added
    hidden: int = 128
    step_tokens: int = 4096  # about this many tokens a step
    micro_batches: int = 2  # of rows of like length
    session_share: float = 0.08  # rows that hold several documents, as a chat does
    matrix_rate: float = 0.015  # Muon, for the blocks' matrices
    other_rate: float = 3e-3  # AdamW, for embeddings and norms
    answer_weight: float = 4.0  # an answer's token counts this much more than prose
    warmup: float = 0.002  # shares of the whole time
    decay: float = 0.7
    workers: int = 1
    compile: bool = False
    save_minutes: float = 5.0


def model_config(settings: Settings, layers: int | None = None) -> LlamaConfig:
    """Deep and narrow, tied embeddings; two heads share keys and values as wide as the model."""
    heads = settings.hidden // 32
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=settings.hidden,
        intermediate_size=settings.hidden * 8 // 3,
        num_hidden_layers=layers or settings.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=64,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )


def make_shard(tokenizer_file: str, folder: str, seed: int, index: int) -> str:
    """Write the shard of `seed` unless it is there; returns its path.

    `index` counts the shards of a run: the first ones are the first lessons.
    """
    path = Path(folder) / f"shard-{seed:05d}.npy"
    if not path.exists():
        mix, tokens = (*FIRST_LESSONS, (MIX, SHARD_TOKENS))[min(index, len(FIRST_LESSONS))]
        stream = pack(tokenizer_file, seed, tokens, mix)
        unfinished = path.with_suffix(".tmp.npy")
        np.save(unfinished, stream)
        unfinished.rename(path)
    return str(path)


def streams(settings: Settings, tokenizer_file: Path) -> Iterator[NDArray[np.uint16]]:
    """Shards of training text without end, made ahead by other processes."""
    folder = Path(settings.work) / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    first = 1_000 * (settings.seed + 1)
    with ProcessPoolExecutor(settings.workers, mp_context=get_context("spawn")) as pool:
        ahead = deque[Future[str]]()
        for index in itertools.count(settings.first_shard):
            paths = str(tokenizer_file), str(folder)
            ahead.append(pool.submit(make_shard, *paths, first + index, index))
            if len(ahead) > settings.workers:
                yield np.load(ahead.popleft().result(), allow_pickle=False)


def steps(settings: Settings, tokenizer_file: Path) -> Iterator[list[torch.Tensor]]:
    """The micro-batches of every step: (rows, longest) marked ids, short rows with short ones.

    A row is one document, so that nothing before it disturbs; padding stands to the right, where
    causal attention needs no mask. Some rows are several documents, as in a chat. Rows are sorted
    by length over many steps, so that next to nothing is padding.
    """
    rng = random.Random(f"steps/{settings.seed}/{settings.first_shard}")  # noqa: S311
    documents = (
        document
        for stream in streams(settings, tokenizer_file)
        for document in np.split(stream, np.flatnonzero(stream == BEGIN)[1:])
    )
    newline = Tokenizer.from_file(str(tokenizer_file)).encode("\n", add_special_tokens=False).ids
    batch_tokens = settings.step_tokens // settings.micro_batches
    while True:
        pool: list[NDArray[np.uint16]] = []
        while sum(len(row) for row in pool) < POOL_STEPS * settings.step_tokens:
            row = next(documents)
            for _ in range(rng.randrange(1, 4) if rng.random() < settings.session_share else 0):
                row = np.concatenate([row[:-1], newline, next(documents)[1:]])
            pool.append(row[:CONTEXT_TOKENS].astype(np.uint16))
        pool.sort(key=len)
        batches = [padded(rows) for rows in batches_of(pool, batch_tokens)]
        rng.shuffle(batches)
        for start in range(0, len(batches), settings.micro_batches):
            yield batches[start : start + settings.micro_batches]


def batches_of(
    rows: list[NDArray[np.uint16]], batch_tokens: int
) -> Iterator[list[NDArray[np.uint16]]]:
    """Rows sorted by length, cut into runs of about `batch_tokens` tokens."""
    run: list[NDArray[np.uint16]] = []
    for row in rows:
        run.append(row)
        if len(run) * len(row) >= batch_tokens:
            yield run
            run = []
    if run:
        yield run


def padded(rows: list[NDArray[np.uint16]]) -> torch.Tensor:
    """Rows of unequal length as one (rows, longest) tensor, padded to the right."""
    table = np.full((len(rows), max(len(row) for row in rows)), PAD, dtype=np.int64)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return torch.tensor(table)


def rate_share(progress: float, settings: Settings) -> float:
    """The learning rate's share at `progress` (0 to 1) of the time."""
    rising = progress / settings.warmup if settings.warmup else 1.0
    falling = (1 - progress) / settings.decay if settings.decay else 1.0
    return max(0.0, min(1.0, rising, falling))


def loss_sums(
    model: LlamaForCausalLM, marked: torch.Tensor, answer_weight: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted sum to descend, and plain sums for the log.

    These are the losses of all tokens, the losses of answers, and the counts of both.
    """
    bit = int(ANSWER_BIT)
    ids, answers = marked & (bit - 1), (marked[:, 1:] >= bit).float()
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    losses = functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1), reduction="none"
    ).view(answers.shape)
    real = (ids[:, 1:] != PAD).float()
    weights = real * (1 + (answer_weight - 1) * answers)
    told = [(losses * real).sum(), real.sum(), (losses * answers).sum(), answers.sum()]
    return (losses * weights).sum(), torch.stack(told).detach()


def optimizers(model: LlamaForCausalLM, settings: Settings) -> list[Optimizer]:
    """Muon for the blocks' matrices, AdamW for all else; no weight decay: no text repeats."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]  # noqa: PLR2004
    others = [p for name, p in named if p.ndim != 2 or "embed" in name]  # noqa: PLR2004
    muon = torch.optim.Muon(matrices, lr=settings.matrix_rate, weight_decay=0.0)
    adam = torch.optim.AdamW(others, lr=settings.other_rate, betas=(0.9, 0.95), weight_decay=0.0)
    return [muon, adam]


def save_model(model: LlamaForCausalLM, settings: Settings) -> None:
    """The float32 checkpoint to `work`, the bfloat16 model to `out`."""
    state = {name: tensor.detach().cpu() for name, tensor in model.named_parameters()}
    cast("Any", storage).save_file(state, Path(settings.work) / "checkpoint.safetensors")
    config = model_config(settings, model.config.num_hidden_layers)
    config.dtype = torch.bfloat16
    with torch.device("cpu"):
        copy = LlamaForCausalLM(config).bfloat16()
    copy.load_state_dict(state, strict=False)
    copy.tie_weights()
    copy.generation_config = GenerationConfig(
        bos_token_id=0, eos_token_id=1, pad_token_id=2, max_new_tokens=200
    )
    cast("Any", copy).save_pretrained(settings.out)


def start_model(settings: Settings, device: torch.device) -> LlamaForCausalLM:
    """A fresh shallow model of the seed, or the checkpoint in `work`."""
    cast("Any", torch).manual_seed(settings.seed)
    if not settings.resume:
        return placed(LlamaForCausalLM(model_config(settings, settings.shallow_layers)), device)
    state = cast("Any", storage).load_file(Path(settings.work) / "checkpoint.safetensors")
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("model.layers."))
    model = LlamaForCausalLM(model_config(settings, layers))
    model.load_state_dict(state, strict=False)
    model.tie_weights()
    return placed(model, device)


def placed(model: LlamaForCausalLM, device: torch.device) -> LlamaForCausalLM:
    """The model on its device, with the attention that is fastest there."""
    if device.type == "cpu":  # fused attention's backward crawls in bfloat16
        cast("Any", model).set_attn_implementation("eager")
    return cast("Any", model).to(device)


def deepened(model: LlamaForCausalLM, settings: Settings) -> LlamaForCausalLM:
    """The same function with all its layers: new ones stand between, and add nothing at first."""
    known = model.state_dict()
    old, new = model.config.num_hidden_layers, settings.layers
    from_old = {round(index * new / old): index for index in range(old)}
    deep = LlamaForCausalLM(model_config(settings))
    for name, tensor in deep.state_dict().items():
        index, _, part = name.removeprefix("model.layers.").partition(".")
        if not name.startswith("model.layers."):
            tensor.copy_(known[name])
        elif int(index) in from_old:
            tensor.copy_(known[f"model.layers.{from_old[int(index)]}.{part}"])
        elif part in {"self_attn.o_proj.weight", "mlp.down_proj.weight"}:
            tensor.zero_()
    return placed(deep, next(model.parameters()).device)


def rate(descents: list[Optimizer], share: float, settings: Settings) -> None:
    """Set the learning rates to this share of the settings' own."""
    for descent, full in zip(descents, (settings.matrix_rate, settings.other_rate), strict=True):
        descent.param_groups[0]["lr"] = full * share


def descend(
    model: LlamaForCausalLM,
    batches: list[torch.Tensor],
    descents: list[Optimizer],
    sums_of: Callable[..., Any],
    settings: Settings,
) -> torch.Tensor:
    """One step down; returns the sums that `loss_sums` tells."""
    device = model.device
    told = torch.zeros(4, device=device)
    for batch in batches:
        with torch.autocast(device.type, torch.bfloat16):
            loss, sums = sums_of(model, batch.to(device), settings.answer_weight)
        (loss / settings.step_tokens).backward()
        told += sums
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for descent in descents:
        descent.step()
        descent.zero_grad()
    return told


def train(settings: Settings) -> None:
    """Train until the time is up; writes the model, its tokenizer, and `work`/log.json."""
    Path(settings.work).mkdir(parents=True, exist_ok=True)
    if not settings.resume:
        save_tokenizer(train_tokenizer(), Path(settings.out))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = start_model(settings, device)
    sums_of: Callable[..., Any] = loss_sums
    if settings.compile:
        sums_of = cast("Any", torch).compile(loss_sums, dynamic=True)
    descents = optimizers(model, settings)
    log = Log(settings, device, sum(p.numel() for p in model.parameters()))
    limit_s = settings.minutes * 60
    started_s = saved_s = time.monotonic()
    tokens = 0
    for step, batches in enumerate(steps(settings, Path(settings.out) / "tokenizer.json")):
        elapsed_s = time.monotonic() - started_s
        if elapsed_s >= limit_s:
            break
        if (
            elapsed_s / limit_s >= settings.shallow
            and model.config.num_hidden_layers < settings.layers
        ):
            model = deepened(model, settings)
            descents = optimizers(model, settings)
        rate(descents, rate_share(elapsed_s / limit_s, settings), settings)
        told = descend(model, batches, descents, sums_of, settings)
        all_sum, count, answer_sum, answer_count = (float(value) for value in told)
        tokens += int(count)
        if step % LOG_STEPS == 0:
            log.add(step, tokens, elapsed_s, all_sum / count, answer_sum / answer_count)
        if elapsed_s - (saved_s - started_s) > settings.save_minutes * 60:
            saved_s = time.monotonic()
            save_model(model, settings)
    save_model(model, settings)


class Log:
    """Loss over time, kept in `work`/log.json and printed."""

    def __init__(self, settings: Settings, device: torch.device, parameters: int) -> None:
        self.settings = settings
        self.path = Path(settings.work) / "log.json"
        hardware = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        self.head = {
            "settings": asdict(settings),
            "parameters": parameters,
            "hardware": hardware,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        self.points: list[dict[str, float]] = []

    def add(self, step: int, tokens: int, elapsed_s: float, prose: float, answers: float) -> None:
        """One point; raises ValueError when the loss is no number, since nothing mends that."""
        if not math.isfinite(prose):
            raise ValueError(f"loss is {prose} at step {step}")
        point = {
            "step": step,
            "tokens": tokens,
            "elapsed_s": round(elapsed_s, 1),
            "loss": round(prose, 4),
            "answer_loss": round(answers, 4),
        }
        self.points.append(point)
        self.path.write_text(json.dumps({**self.head, "points": self.points}) + "\n")
        print(" ".join(f"{name}={value}" for name, value in point.items()), flush=True)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", required=True)
    parser.add_argument("--out", required=True)
    for name, field in Settings.__dataclass_fields__.items():
        if name in {"work", "out"}:
            continue
        flag = "--" + name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(flag, action="store_true")
        else:
            kind = cast("type[int] | type[float]", type(field.default))
            parser.add_argument(flag, type=kind, default=field.default)
    train(Settings(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
