"""Train the shipped model: `python -m evals.fable.train --work build/fable --out models/fable-2m`.

Plain PyTorch over Transformers' Llama. First the lessons, each for its tokens and at its depth;
then the mix, whose schedule follows the clock: warm-up, a plateau, and a straight line down to zero
when `--minutes` are over, whatever the machine.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import safetensors.torch as storage
import torch
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from evals.fable.lessons import LESSONS
from evals.fable.reading import PAD, steps
from evals.fable.tokens import (
    ANSWER_BIT,
    CONTEXT_TOKENS,
    GIVEN_BIT,
    VOCABULARY,
    save_tokenizer,
    train_tokenizer,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim import Optimizer

__all__ = ["Settings", "main", "model_config", "train"]

LOG_STEPS = 20


@dataclass(frozen=True, slots=True)
class Settings:
    """One training run; the defaults are the shipped model's."""

    work: str
    out: str
    minutes: float = 90.0
    seed: int = 0
    first_shard: int = 0  # go on after the shards that an earlier run has read
    resume: bool = False  # start from `work`/checkpoint.safetensors
    first_lesson: int = 0  # go on with this one; `len(LESSONS)` is the mix
    layers: int = 8  # the lessons begin with fewer
    hidden: int = 128
    step_tokens: int = 4096  # about this many tokens a step
    micro_batches: int = 2  # of rows of like length
    session_share: float = 0.08  # rows that hold several documents, as a chat does
    matrix_rate: float = 0.015  # Muon, for the blocks' matrices
    other_rate: float = 3e-3  # AdamW, for embeddings and norms
    answer_weight: float = 4.0  # an answer's token counts this much more than prose
    lesson_tokens: int = 2048  # a step of the lessons
    warmup: float = 0.01  # shares of a lesson's tokens, or of the mix's time
    lesson_decay: float = 0.4
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


def rate_share(progress: float, warmup: float, decay: float) -> float:
    """The learning rate's share at `progress` (0 to 1): up, along, and down to nothing."""
    rising = progress / warmup if warmup else 1.0
    falling = (1 - progress) / decay if decay else 1.0
    return max(0.0, min(1.0, rising, falling))


def loss_sums(
    model: LlamaForCausalLM, marked: torch.Tensor, answer_weight: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted sum to descend, and plain sums for the log.

    These are the losses of all tokens, the losses of answers, and the counts of both.
    """
    answer, given = int(ANSWER_BIT), int(GIVEN_BIT)
    ids, answers = marked & (given - 1), (marked[:, 1:] & answer > 0).float()
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    losses = functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1), reduction="none"
    ).view(answers.shape)
    real = (ids[:, 1:] != PAD).float()
    learned = real * (marked[:, 1:] & given == 0)
    weights = learned * (1 + (answer_weight - 1) * answers)
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
    """A fresh model of the seed, as deep as the first lesson; or the checkpoint in `work`."""
    cast("Any", torch).manual_seed(settings.seed)
    if not settings.resume:
        return placed(LlamaForCausalLM(model_config(settings, depth(settings, 0))), device)
    state = cast("Any", storage).load_file(Path(settings.work) / "checkpoint.safetensors")
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("model.layers."))
    model = LlamaForCausalLM(model_config(settings, layers))
    model.load_state_dict(state, strict=False)
    model.tie_weights()
    return placed(model, device)


def depth(settings: Settings, lesson: int) -> int:
    """How many layers a lesson, or the mix after them, has."""
    taught = [min(known.layers, settings.layers) for known in LESSONS[lesson : lesson + 1]]
    return taught[0] if taught else settings.layers


def placed(model: LlamaForCausalLM, device: torch.device) -> LlamaForCausalLM:
    """The model on its device, with the attention that is fastest there."""
    if device.type == "cpu":  # fused attention's backward crawls in bfloat16
        cast("Any", model).set_attn_implementation("eager")
    return cast("Any", model).to(device)


def deepened(model: LlamaForCausalLM, settings: Settings, new: int) -> LlamaForCausalLM:
    """The same function with `new` layers: those added stand between, and do nothing at first."""
    known = model.state_dict()
    old = model.config.num_hidden_layers
    from_old = {round(index * new / old): index for index in range(old)}
    deep = LlamaForCausalLM(model_config(settings, new))
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
    """Teach the lessons, then the mix; writes the model, its tokenizer, and `work`/log.json."""
    Path(settings.work).mkdir(parents=True, exist_ok=True)
    if not settings.resume:
        save_tokenizer(train_tokenizer(), Path(settings.out))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = start_model(settings, device)
    log = Log(settings, device)
    for lesson in range(settings.first_lesson, len(LESSONS) + 1):
        if model.config.num_hidden_layers < depth(settings, lesson):
            model = deepened(model, settings, depth(settings, lesson))
        study(model, lesson, settings, log)
        save_model(model, settings)


def study(model: LlamaForCausalLM, lesson: int, settings: Settings, log: Log) -> None:
    """Read one lesson to its end, or the mix until the time is up."""
    taught = LESSONS[lesson : lesson + 1]
    decay = settings.lesson_decay if taught else settings.decay
    sums_of: Callable[..., Any] = loss_sums
    if settings.compile:
        sums_of = cast("Any", torch).compile(loss_sums, dynamic=True)
    descents = optimizers(model, settings)
    limit_s = settings.minutes * 60
    begun_s = saved_s = log.elapsed_s()
    tokens = 0
    for step, batches in enumerate(steps(settings, Path(settings.out) / "tokenizer.json", lesson)):
        elapsed_s = log.elapsed_s()
        if elapsed_s >= limit_s:
            break
        timed = (elapsed_s - begun_s) / (limit_s - begun_s)
        progress = tokens / taught[0].tokens if taught else timed
        rate(descents, rate_share(progress, settings.warmup, decay), settings)
        told = descend(model, batches, descents, sums_of, settings)
        tokens += int(told[1])
        log.add(lesson, step, told)
        if elapsed_s - saved_s > settings.save_minutes * 60:
            saved_s = elapsed_s
            save_model(model, settings)


class Log:
    """Loss over time, kept in `work`/log.json and printed."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.path = Path(settings.work) / "log.json"
        hardware = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        self.head = {
            "settings": asdict(settings),
            "hardware": hardware,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        self.points: list[dict[str, float]] = []
        self.tokens = 0
        self.started_s = time.monotonic()

    def elapsed_s(self) -> float:
        """Since training began."""
        return time.monotonic() - self.started_s

    def add(self, lesson: int, step: int, told: torch.Tensor) -> None:
        """Count a step's tokens, and make a point of some steps.

        Raises ValueError when the loss is no number, since nothing mends that.
        """
        all_sum, count, answer_sum, answer_count = (float(value) for value in told)
        self.tokens += int(count)
        if step % LOG_STEPS:
            return
        if not math.isfinite(all_sum):
            raise ValueError(f"loss is {all_sum} in lesson {lesson}, step {step}")
        point = {
            "lesson": lesson,
            "step": step,
            "tokens": self.tokens,
            "elapsed_s": round(self.elapsed_s(), 1),
            "loss": round(all_sum / count, 4),
            "answer_loss": round(answer_sum / max(answer_count, 1), 4),
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
