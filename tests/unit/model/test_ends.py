from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, LlamaForCausalLM, StaticCache

from shardline.core.errors import NodeLost, PeerFault, Unsupported
from shardline.model import Crossing, Returned, cache_length, load_ends, trace
from tests.parity.chains import CPU, LocalChain, generated, padded_batch, prompt
from tests.parity.zoo import ZOO, make

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache

    from shardline.model import ChainPlan

IDS, MASK = prompt()


@pytest.fixture
def chain(plan: ChainPlan) -> LocalChain:
    return LocalChain.load(plan, 2)


@pytest.fixture
def ends(plan: ChainPlan, chain: LocalChain) -> Any:
    return load_ends(plan, chain, dtype=torch.float32, device=CPU)


def with_run(plan: ChainPlan, run: Callable[[Cache | None, Crossing], Returned]) -> Any:
    return load_ends(plan, run, dtype=torch.float32, device=CPU)


def test_a_forward_is_one_request_of_the_whole_chain(plan: ChainPlan) -> None:
    seen: list[tuple[Cache | None, Crossing]] = []

    def run(cache: Cache | None, crossing: Crossing) -> Returned:
        seen.append((cache, crossing))
        return Returned(crossing.carried[0])

    ends = with_run(plan, run)
    output = ends(input_ids=IDS, use_cache=True)
    ((cache, crossing),) = seen
    assert cache is output.past_key_values
    assert (crossing.start, crossing.order) == (0, (0,) * plan.blocks)
    assert len(crossing.calls) == 1, "equal inputs are sent once"
    assert (crossing.batch, crossing.tokens) == (1, 9)


def test_its_class_and_config_are_the_architectures_own(ends: Any, plan: ChainPlan) -> None:
    assert type(ends).__name__ == plan.architecture
    assert isinstance(ends, LlamaForCausalLM)


def test_stubs_answer_for_their_blocks(ends: Any) -> None:
    stub = ends.model.layers[2]
    assert stub.self_attn.layer_idx == 2
    assert stub.self_attn.q_proj.weight.is_meta
    with pytest.raises(AttributeError):
        _ = stub.no_such_thing


def test_a_model_that_computes_between_its_blocks_is_refused(ends: Any) -> None:
    def scale(_: object, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (args[0] * 1.0, *args[1:])

    ends.model.layers[1].register_forward_pre_hook(scale)
    with pytest.raises(Unsupported, match="computes between its blocks"):
        ends(input_ids=IDS)


def test_a_block_that_is_given_anothers_value_is_refused(ends: Any) -> None:
    first: list[torch.Tensor] = []

    def keep(_: object, args: tuple[torch.Tensor, ...]) -> None:
        first.append(args[0])

    def swap(_: object, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (first[-1], *args[1:])

    ends.model.layers[1].register_forward_pre_hook(keep)
    ends.model.layers[3].register_forward_pre_hook(swap)
    with pytest.raises(Unsupported, match="what no block returned just before"):
        ends(input_ids=IDS)


def test_a_skipped_block_is_noticed(ends: Any) -> None:
    ends.model.layers = torch.nn.ModuleList([ends.model.layers[0], *ends.model.layers[2:]])
    with pytest.raises(Unsupported, match="skipped to block 2"):
        ends(input_ids=IDS)


def test_what_the_chain_returns_is_checked(plan: ChainPlan) -> None:
    wrong = [torch.zeros(1, 8, 64), None, (torch.zeros(1, 9, 64),), {"a": 1}]
    for output in wrong:

        def run(_: Cache | None, __: Crossing, output: object = output) -> Returned:
            return Returned(output)

        ends = with_run(plan, run)
        with pytest.raises(PeerFault):
            ends(input_ids=IDS)


def test_a_lost_node_ends_the_forward_and_spoils_its_cache(
    plan: ChainPlan, chain: LocalChain
) -> None:
    failing = False

    def run(cache: Cache | None, crossing: Crossing) -> Returned:
        if failing:
            raise NodeLost("node b went away")
        return chain(cache, crossing)

    ends = with_run(plan, run)
    cache = ends(input_ids=IDS, use_cache=True).past_key_values
    failing = True
    with pytest.raises(NodeLost):
        ends(input_ids=IDS[:, :1], past_key_values=cache)
    failing = False
    with pytest.raises(Unsupported):
        ends(input_ids=IDS[:, :1], past_key_values=cache)
    generated(ends, (IDS, MASK), tokens=2)


def crop(cache: DynamicCache) -> DynamicCache:
    cache.crop(-1)
    return cache


def reorder(cache: DynamicCache) -> DynamicCache:
    cache.reorder_cache(torch.LongTensor([0]))
    return cache


def reset(cache: DynamicCache) -> DynamicCache:
    cache.reset()
    return cache


def repeat(cache: DynamicCache) -> DynamicCache:
    cache.batch_repeat_interleave(2)
    return cache


def select(cache: DynamicCache) -> DynamicCache:
    cache.batch_select_indices(torch.LongTensor([0]))
    return cache


@pytest.mark.parametrize("change", [crop, reorder, reset, repeat, select, copy.deepcopy])
def test_a_changed_cache_is_refused(ends: Any, change: Any) -> None:
    cache = change(ends(input_ids=IDS, use_cache=True).past_key_values)
    batch = 2 if change is repeat else 1
    with pytest.raises(Unsupported, match="a remote session cannot follow"):
        ends(input_ids=IDS[:, :1].expand(batch, 1), past_key_values=cache)


def test_a_cache_filled_elsewhere_is_refused(ends: Any, llama: Path) -> None:
    typeless: Any = AutoModelForCausalLM
    whole = typeless.from_pretrained(llama)
    cache = whole(input_ids=IDS, use_cache=True).past_key_values
    with pytest.raises(Unsupported):
        ends(input_ids=IDS[:, :1], past_key_values=cache)


@pytest.mark.parametrize("implementation", ["static", "offloaded"])
def test_a_cache_that_is_not_dynamic_is_refused(ends: Any, implementation: str) -> None:
    with pytest.raises(Unsupported, match="leave the cache to default"):
        ends.generate(
            IDS, attention_mask=MASK, max_new_tokens=2, cache_implementation=implementation
        )


def test_a_static_cache_is_refused(ends: Any) -> None:
    cache = StaticCache(config=ends.config, max_cache_len=32)
    with pytest.raises(Unsupported, match="StaticCache"):
        ends(input_ids=IDS, past_key_values=cache)


def test_a_cache_made_without_a_config_serves_where_all_layers_are_plain(
    ends: Any,
    chain: LocalChain,
) -> None:
    cache = DynamicCache()
    ends(input_ids=IDS, past_key_values=cache)
    assert cache_length(cache) == cache.get_seq_length() == 9
    assert [cache_length(held) for held in chain.sessions[cache]] == [9, 9]


@pytest.mark.parametrize("name", ["output_hidden_states", "output_attentions"])
def test_what_only_the_blocks_know_is_refused(ends: Any, name: str) -> None:
    with pytest.raises(Unsupported, match=name):
        ends(input_ids=IDS, **{name: True})


def test_the_callers_cache_weighs_next_to_nothing(ends: Any) -> None:
    cache = ends(input_ids=IDS, use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held == 4 * 2 * 9


def test_a_session_ends_with_the_callers_cache(ends: Any, chain: LocalChain) -> None:
    output = ends(input_ids=IDS, use_cache=True)
    assert len(chain.sessions) == 1
    del output
    assert len(chain.sessions) == 0


def test_threads_do_not_mix_their_forwards(ends: PreTrainedModel) -> None:
    inputs = [prompt(9, seed) for seed in range(4)]
    expected = [generated(ends, each, tokens=6)[0] for each in inputs]
    found: dict[int, torch.Tensor] = {}

    def work(index: int) -> None:
        found[index] = generated(ends, inputs[index], tokens=6)[0]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, ids in enumerate(expected):
        assert torch.equal(found[index], ids)


def test_seeded_sampling_equals_the_whole_models(ends: Any, llama: Path) -> None:
    typeless: Any = AutoModelForCausalLM
    whole = typeless.from_pretrained(llama)
    ids: list[torch.Tensor] = []
    typeless = torch
    for model in (whole, ends):
        typeless.manual_seed(3)
        ids.append(
            model.generate(
                padded_batch()[0],
                attention_mask=padded_batch()[1],
                max_new_tokens=8,
                do_sample=True,
                temperature=0.8,
                top_p=0.9,
            )
        )
    assert torch.equal(*ids)


def test_a_generation_config_beside_the_weights_is_used(plan: ChainPlan, llama: Path) -> None:
    assert (llama / "generation_config.json").is_file()
    ends = with_run(plan, LocalChain([]))
    assert ends.generation_config.bos_token_id == 1
    assert ends.generation_config.disable_compile


def test_many_may_load_at_once(tmp_path: Path) -> None:
    make(next(tiny for tiny in ZOO if tiny.name == "llama-tied"), tmp_path)
    plan = trace(tmp_path)

    def run(_cache: Cache | None, _crossing: Crossing) -> Returned:
        raise AssertionError("nothing is run here")

    def load(_: int) -> bool:
        ends: Any = load_ends(plan, run, dtype=torch.float32, device=CPU)
        return ends.lm_head.weight is ends.model.embed_tokens.weight

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(load, range(40)))
