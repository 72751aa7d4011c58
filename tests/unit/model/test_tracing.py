from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import (
    AlbertConfig,
    AutoConfig,
    BertConfig,
    CLIPConfig,
    DPTConfig,
    LlamaConfig,
    MixtralConfig,
    SwinConfig,
    T5Config,
)
from transformers.models.t5.modeling_t5 import T5LayerFF

from shardline.core.errors import (
    BlocksOutOfRange,
    CorruptWeights,
    NoChain,
    NoSuchModel,
    Unsupported,
)
from shardline.core.spans import Span
from shardline.model import ChainPlan, trace
from shardline.model.chain import Place
from tests.parity.zoo import ZOO, Tiny

if TYPE_CHECKING:
    from pathlib import Path


NARROW: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}


def save(config: Any, directory: Path) -> Path:
    config.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("tiny", ZOO, ids=lambda tiny: tiny.name)
def test_the_chain_is_found_without_weights(tiny: Tiny, tmp_path: Path) -> None:
    plan = trace(save(tiny.make_config(), tmp_path))
    assert plan.blocks == 4
    (chain,) = plan.chains
    assert chain.path.endswith((".layers", ".h"))
    assert (chain.span, chain.caches, plan.writes) == (Span(0, 4), True, True)
    for joint in plan.joints:
        assert joint.takes == (Place((0, 0), (1, 4, 64)),)
    assert plan.step_elements == 64
    assert (plan.hidden_size, plan.vocabulary) == (64, 96)
    assert plan.context_tokens == (None if tiny.name in {"bloom", "mamba"} else 128)


def test_a_real_size_is_weighed_without_weights(tmp_path: Path) -> None:
    config = MixtralConfig(num_hidden_layers=3)  # else as the 8x7B
    plan = trace(save(config, tmp_path))
    layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 8 * 3 * 4096 * 14336 + 8 * 4096 + 2 * 4096
    assert plan.block_bytes(torch.bfloat16) == (2 * layer,) * 3
    assert plan.ends_elements == 2 * 32000 * 4096 + 4096
    # Eight key-value heads of 128, keys and values, two bytes each.
    assert plan.cache_bytes_per_token(torch.bfloat16, Span(1, 3)) == 2 * (2 * 8 * 128) * 2
    assert plan.cache_bytes_fixed(torch.bfloat16, Span(1, 3)) == 0


def test_tied_embeddings_are_counted_once(tmp_path: Path) -> None:
    config = LlamaConfig(num_hidden_layers=2, tie_word_embeddings=True)
    plan = trace(save(config, tmp_path))
    assert plan.ends_elements == 32000 * 4096 + 4096


def test_a_span_beyond_the_model_is_refused(plan: ChainPlan) -> None:
    with pytest.raises(BlocksOutOfRange, match="3:5 are not within this model's 0:4"):
        plan.cache_bytes_per_token(torch.float32, Span(3, 5))


def test_one_block_is_no_chain(tmp_path: Path) -> None:
    config = LlamaConfig(num_hidden_layers=1, hidden_size=64, num_attention_heads=4)
    with pytest.raises(NoChain, match="graph route"):
        trace(save(config, tmp_path))


def test_one_block_that_is_called_again_and_again_is_no_chain(tmp_path: Path) -> None:
    config = AlbertConfig(vocab_size=96, embedding_size=16, **NARROW)
    with pytest.raises(NoChain, match="no list of repeated blocks: the graph route") as caught:
        trace(save(config, tmp_path))
    assert "\n" not in str(caught.value)


def test_blocks_whose_outputs_are_used_elsewhere_are_no_chain(tmp_path: Path) -> None:
    config = DPTConfig(
        **NARROW,
        num_hidden_layers=4,
        image_size=32,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        architectures=["DPTForDepthEstimation"],
    )
    with pytest.raises(NoChain, match=r"what the blocks of dpt\.encoder\.layer give elsewhere too"):
        trace(save(config, tmp_path))


def test_an_encoder_keeps_no_cache_and_has_no_context(tmp_path: Path) -> None:
    plan = trace(save(BertConfig(**NARROW, num_hidden_layers=2, vocab_size=96), tmp_path))
    assert (plan.architecture, plan.writes, plan.context_tokens) == ("BertModel", False, None)
    assert not any(chain.caches for chain in plan.chains)
    assert plan.cache_bytes_per_token(torch.float32, Span(0, 2)) == 0
    assert plan.step_elements == 32


def test_two_towers_are_two_chains_one_after_the_other(tmp_path: Path) -> None:
    tower = NARROW | {"num_hidden_layers": 3}
    text = tower | {"vocab_size": 96, "max_position_embeddings": 20}
    picture = tower | {"image_size": 32, "patch_size": 8}
    plan = trace(save(CLIPConfig(text_config=text, vision_config=picture), tmp_path))
    first, second = plan.chains
    assert (first.span, second.span, plan.blocks) == (Span(0, 3), Span(3, 6), 6)
    assert plan.chain_at(2) is first
    assert plan.chain_at(3) is second
    assert plan.block_path(4) == f"{second.path}.1"
    with pytest.raises(BlocksOutOfRange):
        plan.chain_at(6)


def test_what_is_handed_on_may_change_its_shape(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "window_size": 4}
    plan = trace(save(SwinConfig(**sizes, depths=[1, 1, 1], num_heads=[2, 4, 4]), tmp_path))
    shapes = [joint.takes[0].shape for joint in plan.joints]
    assert shapes == [(2, 256, 16), (2, 64, 32), (2, 16, 64)]
    assert [plan.carried_elements(block) for block in range(3)] == [4096, 2048, 1024]


def test_a_value_may_be_born_in_a_chains_first_block(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4}
    sizes |= {"num_layers": 3, "vocab_size": 96}
    config = T5Config(**sizes, architectures=["T5EncoderModel"])
    plan = trace(save(config, tmp_path))
    assert [len(joint.takes) for joint in plan.joints] == [1, 2, 2]


@pytest.mark.parametrize(
    ("kind", "forwards"),
    [("T5EncoderModel", 1), ("T5Model", 1), ("T5ForConditionalGeneration", 2)],
)
def test_one_forward_says_all_and_a_second_what_is_remembered(
    kind: str, forwards: int, tmp_path: Path
) -> None:
    """Nodes and callers trace at every start: a large model's forward on shapes takes a while."""
    sizes: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4}
    save(T5Config(**sizes, num_layers=3, vocab_size=96, architectures=[kind]), tmp_path)
    runs: Counter[nn.Module] = Counter()

    def count(module: nn.Module, _: object) -> None:
        runs.update([module] if isinstance(module, T5LayerFF) else [])

    with register_module_forward_pre_hook(count):
        plan = trace(tmp_path)
    assert len(runs) == plan.blocks
    assert set(runs.values()) == {forwards}


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"model_type": "nobody-knows"}, Unsupported),
        ({"auto_map": {"AutoConfig": "x.Y"}, "model_type": "own"}, Unsupported),
        ({}, Unsupported),
        ({"model_type": "llama", "hidden_size": "many"}, Unsupported),
        ({"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}, Unsupported),
    ],
)
def test_a_config_that_cannot_be_used_is_one_line(
    fields: dict[str, Any], error: type[Exception], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(error) as caught:
        trace(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_models_own_code_is_never_run(tmp_path: Path) -> None:
    fields = {"model_type": "own", "auto_map": {"AutoConfig": "evil.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(Unsupported, match="code of its own"):
        trace(tmp_path)


def test_a_config_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CorruptWeights, match=r"config\.json"):
        trace(tmp_path)


def test_no_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(NoSuchModel):
        trace(tmp_path)


def test_blocks_that_share_caches_are_refused(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sharing = LlamaConfig()
    typeless: Any = sharing
    typeless.kv_sharing_modes = ["reuse"] * 32

    def read(*_: object, **__: object) -> LlamaConfig:
        return sharing

    monkeypatch.setattr(AutoConfig, "from_pretrained", read)
    with pytest.raises(Unsupported, match="cache"):
        trace(llama)


def test_models_traced_at_once_leave_the_default_dtype_alone(tmp_path: Path) -> None:
    save(ZOO[0].make_config(), tmp_path)
    with ThreadPoolExecutor(8) as threads:
        plans = list(threads.map(trace, [tmp_path] * 24))
    assert torch.get_default_dtype() == torch.float32
    assert {plan.blocks for plan in plans} == {plans[0].blocks}
