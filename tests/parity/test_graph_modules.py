"""The graph route on plain modules, over 2 and 3 stages that know nothing of their code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.parity.graphs import difference

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

Tensor = torch.Tensor


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def mlp() -> nn.Module:
    layers = [nn.Linear(8, 32), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(32, 32)]
    return nn.Sequential(*layers, nn.GELU(), nn.Linear(32, 4), nn.Softmax(-1))


class Residual(nn.Module):
    """As in torchvision: two convolutions, in-place activations, a skip that may be projected."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.last_norm = nn.BatchNorm2d(outputs)
        self.skip = None if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.norm(self.first(x)), inplace=True)
        out = self.last_norm(self.second(out))
        out += x if self.skip is None else self.skip(x)
        return functional.relu(out, inplace=True)


def resnet() -> nn.Module:
    blocks = [Residual(8, 8, 1), Residual(8, 16, 2), Residual(16, 16, 1)]
    stem = [nn.Conv2d(3, 8, 7, 2, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 8), (8, 16)))
        self.middle = nn.Conv2d(16, 16, 3, padding=1)
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, 2) for i, o in ((16, 16), (8, 8)))
        self.joined = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in ((32, 8), (16, 2)))

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for layer in self.down:
            x = functional.silu(layer(x))
            skips.append(x)
            x = functional.max_pool2d(x, 2)
        x = functional.silu(self.middle(x))
        for up, joined in zip(self.up, self.joined, strict=True):
            x = joined(torch.cat([up(x), skips.pop()], dim=1))
        return x


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.LSTM(8, 16, num_layers=2, batch_first=True, dropout=0.5)
        self.other = nn.LSTM(16, 12, batch_first=True, bidirectional=True)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        out, state = self.one(x)
        out, _ = self.other(out)
        return self.head(out), state


class Unseen(nn.Module):
    """What nobody here has seen: all that the issue names, in one module."""

    scale: Tensor
    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(40, 24)
        self.mix = nn.ModuleList(nn.Linear(24, 24) for _ in range(4))
        self.head = nn.Linear(24, 40, bias=False)
        self.head.weight = self.words.weight
        self.drop = nn.Dropout(0.5)
        self.register_buffer("scale", torch.linspace(0.5, 2, 24))
        self.register_buffer("step", torch.tensor(3), persistent=False)

    def forward(
        self,
        words: Tensor,
        seen: dict[str, Tensor],
        *,
        bias: Tensor | None = None,
        twice: bool = False,
    ) -> dict[str, Any]:
        x = self.words(words) * self.scale
        length = words.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool).tril()
        first = x = x + torch.sin(torch.arange(length) / self.step)[None, :, None]
        for at, layer in enumerate(self.mix):
            x = x + self.drop(torch.tanh(layer(x))) * (2 if twice else 1)
            if at == 1:
                x[:, 0] = 1.0
        scores = (x @ first.transpose(1, 2)).masked_fill(~mask, -torch.inf)
        x = scores.softmax(-1) @ x + seen["image"].mean((2, 3))[:, None, :1]
        low, high = x.chunk(2, dim=-1)
        best = x.max(dim=-1)
        logits = self.head(x if bias is None else x + bias)
        return {
            "logits": logits,
            "parts": [low, (high, best.indices), None, 7],
            "weight": self.words.weight,
            "words": words,
            "large": logits[logits > 0],
            "mask": mask,
        }


def transformer() -> nn.Module:
    return nn.Transformer(32, 4, 2, 1, 64, dropout=0.1, batch_first=True)


def words(*shape: int) -> Tensor:
    return torch.randint(0, 40, shape, generator=torch.Generator().manual_seed(sum(shape)))


def unseen_inputs(batch: int, length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    image = {"image": randn(batch, 3, 4, 4)}
    return (words(batch, length), image), {"bias": randn(24), "twice": True}


CASES: dict[str, tuple[Callable[[], nn.Module], list[tuple[tuple[Any, ...], dict[str, Any]]]]] = {
    "mlp": (mlp, [((randn(3, 8),), {}), ((randn(1, 8),), {})]),
    "resnet": (resnet, [((randn(2, 3, 32, 32),), {}), ((randn(5, 3, 32, 32),), {})]),
    "unet": (UNet, [((randn(2, 3, 16, 16),), {}), ((randn(3, 3, 16, 16),), {})]),
    "lstm": (Recurrent, [((randn(3, 5, 8),), {}), ((randn(2, 5, 8),), {})]),
    "unseen": (Unseen, [unseen_inputs(2, 6), unseen_inputs(3, 9)]),
    "transformer": (
        transformer,
        [((randn(2, 7, 32), randn(2, 5, 32)), {}), ((randn(1, 3, 32), randn(1, 4, 32)), {})],
    ),
}


@pytest.fixture
def plain_attention() -> Generator[None]:
    """Without torch's fused encoder layer, which only runs whole and rounds otherwise."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(value=False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


@pytest.mark.usefixtures("plain_attention")
@pytest.mark.parametrize("name", CASES)
def test_stages_give_what_the_module_gives(name: str, tmp_path: Path) -> None:
    cast("Any", torch).manual_seed(0)
    make, inputs = CASES[name]
    assert difference(make(), inputs, tmp_path) == 0


def test_the_fused_encoder_layer_differs_by_rounding_only() -> None:
    cast("Any", torch).manual_seed(0)
    module, (args, _) = transformer().eval(), CASES["transformer"][1][0]
    plain = module(*args)  # with gradients torch does not fuse, nor does it where it traces
    with torch.no_grad():
        assert (module(*args) - plain).abs().max() < 1e-5


def test_bfloat16_stays_as_it_is(tmp_path: Path) -> None:
    cast("Any", torch).manual_seed(0)
    inputs: list[tuple[tuple[Any, ...], dict[str, Any]]] = [((randn(3, 8).bfloat16(),), {})]
    assert difference(mlp().bfloat16(), inputs, tmp_path) == 0
