"""Table 1 of vision: a small ViT and a small CNN, trained here on scikit-learn's digits.

`python -m evals.vision [--work build/vision] [--limit 600]`

Both are trained from a seed, on one thread, on 1,197 pictures of 8 x 8; 600 others are asked. The
ViT goes as a chain of blocks, its weights in 16 and 8 bit; the CNN goes as a graph cut in two,
whose weights stay as they were saved (float32), so only the wire changes. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import importlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import ViTConfig, ViTForImageClassification

from benchmarks.reporting import circumstances, stem
from shardline.cli.eval_report import report, save_report
from shardline.cli.eval_run import measure_ways
from shardline.cli.graphs import cut_module
from shardline.evaluation import Shares, table

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Digits", "SmallCnn", "ask", "main", "read_digits", "small_vit", "train"]

REPORTS = Path(__file__).parent / "reports"
HELD_OUT = 600
BATCH = 64
RATE = 2e-3
EPOCHS = {"ViT": 80, "CNN": 30}
AT_ONCE = 100
"""Pictures of one call."""
NODES = 2
_torch = cast("Any", torch)


@dataclass(frozen=True, slots=True)
class Digits:
    """Pictures (n, 1, 8, 8) from -1 to 1, and what they show."""

    pictures: torch.Tensor
    labels: torch.Tensor

    def part(self, start: int, stop: int | None = None) -> Digits:
        """Some of them."""
        return Digits(self.pictures[start:stop], self.labels[start:stop])


def read_digits() -> tuple[Digits, Digits]:
    """To train with and to ask, of all that come with scikit-learn, in a seeded order."""
    found = cast("Any", importlib.import_module("sklearn.datasets")).load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    pictures = torch.tensor(found.images[order], dtype=torch.float32)[:, None] / 8 - 1
    whole = Digits(pictures, torch.tensor(found.target[order]))
    return whole.part(HELD_OUT), whole.part(0, HELD_OUT)


def small_vit() -> nn.Module:
    """Four blocks of width 64 over 16 patches: 136 thousand parameters."""
    config = cast("Any", ViTConfig)(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
        num_labels=10,
    )
    return ViTForImageClassification(config)


class SmallCnn(nn.Module):
    """Three convolutions, one of them passed by, and a head: 31 thousand parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 32, 3, padding=1)
        self.third = nn.Conv2d(32, 64, 3, padding=1)
        self.head = nn.Linear(64 * 4, 10)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Pictures (n, 1, 8, 8) to logits (n, 10)."""
        early = functional.relu(self.first(pixel_values))
        late = functional.relu(early + self.second(early))
        small = functional.max_pool2d(late, 2)
        small = functional.max_pool2d(functional.relu(self.third(small)), 2)
        return self.head(small.flatten(1))


def logits_of(output: Any) -> torch.Tensor:  # noqa: ANN401  (a tensor, or Transformers' output)
    """What a network says of each picture, (n, 10)."""
    return cast("torch.Tensor", getattr(output, "logits", output)).float()


def train(network: nn.Module, digits: Digits, epochs: int) -> nn.Module:
    """Learn the digits, each picture moved by up to a pixel; a function of torch's seed."""
    steps = epochs * (len(digits.labels) // BATCH)
    optimiser: Any = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.05)
    schedule: Any = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    network.train()
    for _ in range(steps):
        some = torch.randint(len(digits.labels), (BATCH,))
        by: Any = torch.randint(-1, 2, (2,))
        moved = digits.pictures[some].roll(tuple(by.tolist()), (2, 3))
        loss: Any = functional.cross_entropy(
            logits_of(network(pixel_values=moved)), digits.labels[some]
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def ask(digits: Digits, model: Callable[..., Any]) -> Shares:
    """What a network, or a swarm, reads in each picture."""
    parts: Any = cast("Any", digits.pictures).split(AT_ONCE)
    with torch.no_grad():
        said: Any = torch.cat([logits_of(model(pixel_values=part)).argmax(-1) for part in parts])
    return Shares(tuple(map(str, said.tolist())), tuple((said == digits.labels).tolist()))


def made(work: Path, learn: Digits) -> tuple[Path, Path]:
    """Train both, and write the ViT as a checkpoint and the CNN as a graph in two stages."""
    _torch.manual_seed(0)
    vit: Any = train(small_vit(), learn, EPOCHS["ViT"])
    vit.save_pretrained(work / "vit")
    _torch.manual_seed(0)
    cnn = train(SmallCnn(), learn, EPOCHS["CNN"])
    cut_module(cnn, (), {"pixel_values": learn.pictures[:3]}, NODES, work / "cnn")
    return work / "vit", work / "cnn"


def main() -> None:
    """Train, ask in every way, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/vision"))
    parser.add_argument("--limit", type=int, default=HELD_OUT)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    learn, held_out = read_digits()
    asking = partial(ask, held_out.part(0, asked.limit))
    vit, cnn = made(asked.work, learn)
    how: dict[str, Any] = {"nodes": NODES, "threads": 1, "tell": print}
    rows = measure_ways(vit, {"digits, ViT": asking}, ("bf16", "int8"), ("raw", "int8"), **how)
    rows += measure_ways(cnn, {"digits, CNN": asking}, ("fp32",), ("raw", "int8"), **how)
    print(table(rows))
    found = report(rows, model="vision", nodes=NODES, threads=1, limit=asked.limit)
    command = f"python -m evals.vision --limit {asked.limit}"
    save_report(
        found,
        rows,
        REPORTS / stem("table1-vision"),
        "A ViT of 4 blocks of width 64, as a chain, and a CNN of three convolutions, as a graph in "
        "two stages: weights of graphs stay as they are, so its rows differ in the wire alone. "
        "Trained by the same command on 1,197 of scikit-learn's digits; the others are asked.",
        circumstances(command),
    )


if __name__ == "__main__":
    main()
