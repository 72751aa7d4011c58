"""Packed layers: the same bits as the layers that they stand for."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from shardline.core.spans import Span
from shardline.model import load_ends, load_span, trace
from shardline.model.packed import PackedLinear, can_pack, pack, products

CPU = torch.device("cpu")
BF16 = torch.bfloat16

pytestmark = pytest.mark.skipif(not can_pack(BF16, CPU), reason="oneDNN has no bfloat16 here")


def linear(inputs: int, outputs: int, *, bias: bool) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=bias).to(BF16)


@given(
    rows=st.integers(2, 40),
    inputs=st.integers(1, 200),
    outputs=st.integers(1, 200),
    bias=st.booleans(),
)
def test_the_bits_are_those_of_the_layer(
    rows: int, inputs: int, outputs: int, *, bias: bool
) -> None:
    plain = linear(inputs, outputs, bias=bias)
    packed = PackedLinear(plain)
    x = torch.randn(1, rows, inputs).to(BF16)
    with torch.no_grad():
        assert torch.equal(packed(x), plain(x))
    assert torch.equal(packed.weight, plain.weight)
    assert packed.memory_bytes == plain.weight.nbytes


@given(
    inputs=st.integers(1, 300),
    outputs=st.integers(1, 200),
    rows=st.integers(2, 20),
    bias=st.booleans(),
)
def test_a_row_has_the_same_bits_alone_and_in_any_company(
    inputs: int, outputs: int, rows: int, *, bias: bool
) -> None:
    check_lone_rows(linear(inputs, outputs, bias=bias), rows)


def test_so_it_has_where_torchs_own_kernels_differ() -> None:
    plain = linear(4096, 2048, bias=False)
    x = torch.randn(8, 4096).to(BF16)
    with torch.no_grad():
        assert not torch.equal(torch.cat([plain(row[None]) for row in x]), plain(x))
    check_lone_rows(plain, 8)


@torch.no_grad()
def check_lone_rows(plain: nn.Linear, rows: int) -> None:
    packed = PackedLinear(plain)
    x = torch.randn(rows, plain.in_features).to(BF16)
    together = packed(x)
    alone = torch.cat([packed(row[None]) for row in x])
    assert torch.equal(alone, together)
    assert torch.equal(packed(x[0]), together[0])
    exact = plain.double()(x.double())
    assert bool(((alone.double() - exact).abs() <= 2**-8 * exact.abs() + 1e-5).all())


@pytest.mark.parametrize("inputs", [640, 1024, 2048, 5632])
def test_nodes_with_and_without_our_kernel_agree(
    inputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, x = linear(inputs, 256, bias=True), torch.randn(11, inputs).to(BF16)
    ours = PackedLinear(plain)

    def never(_: torch.Tensor) -> bool:
        return False

    monkeypatch.setattr("shardline.kernels.Panels.takes", never)
    torchs = PackedLinear(plain)
    assert products(BF16, CPU) == "blocks, tapes"
    for rows in (1, 2, 3, 8, 11):
        assert torch.equal(ours(x[:rows]), torchs(x[:rows]))
    assert torch.equal(ours.weight, torchs.weight)


def test_the_layers_of_a_block_are_packed_and_nothing_else() -> None:
    block = nn.ModuleDict(
        {"wide": linear(64, 64, bias=True), "norm": nn.LayerNorm(64), "exact": nn.Linear(8, 8)}
    )
    norm = cast("nn.LayerNorm", block["norm"])
    held = norm.weight.data_ptr()
    pack(block)
    assert [type(module) for module in block.values()] == [PackedLinear, nn.LayerNorm, nn.Linear]
    assert norm.weight.data_ptr() != held


def test_other_dtypes_and_devices_are_left() -> None:
    assert not can_pack(torch.float32, CPU)
    assert products(torch.float32, CPU) == "torch"
    assert not can_pack(BF16, torch.device("meta"))


def checkpoint(folder: Path, *, tied: bool) -> Path:
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    typeless: Any = LlamaForCausalLM(config)
    typeless.to(BF16).save_pretrained(folder)
    return folder


def no_blocks(*_: object) -> Any:
    raise AssertionError("no step is run here")


@pytest.mark.parametrize("tied", [False, True])
def test_a_head_of_its_own_is_packed_and_one_that_is_the_embeddings_is_not(
    tmp_path: Path, *, tied: bool
) -> None:
    ends: Any = load_ends(trace(checkpoint(tmp_path, tied=tied)), no_blocks, dtype=BF16, device=CPU)
    assert isinstance(ends.lm_head, nn.Linear if tied else PackedLinear)
    assert (ends.lm_head.weight is ends.model.embed_tokens.weight) is tied


def test_a_span_says_what_packed_layers_hold(tmp_path: Path) -> None:
    plan = trace(checkpoint(tmp_path, tied=False))
    span = load_span(plan, Span(0, 2), dtype=BF16, device=CPU)
    assert any(isinstance(module, PackedLinear) for module in span.blocks[0].modules())
    assert span.memory_bytes == BF16.itemsize * sum(plan.block_elements)
    assert span.dtype == BF16
