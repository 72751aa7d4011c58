from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from transformers import AutoModelForCausalLM

from shardline.model import load_ends, trace
from tests.parity.chains import CPU, LocalChain
from tests.parity.zoo import ZOO, Tiny, make

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from shardline.model import ChainPlan


@dataclass
class Case:
    """One architecture: the whole model from its files, and the same over two spans."""

    tiny: Tiny
    plan: ChainPlan
    whole: PreTrainedModel
    chain: LocalChain
    ends: PreTrainedModel

    def ends_over(self, chain: LocalChain) -> PreTrainedModel:
        return load_ends(self.plan, chain, dtype=torch.float32, device=CPU)


@pytest.fixture(scope="session", params=ZOO, ids=lambda tiny: tiny.name)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    tiny: Tiny = request.param
    directory = tmp_path_factory.mktemp(tiny.name)
    make(tiny, directory)
    typeless: Any = AutoModelForCausalLM
    whole = cast("PreTrainedModel", typeless.from_pretrained(directory, dtype=torch.float32))
    plan = trace(directory)
    chain = LocalChain.load(plan, 2)
    ends = load_ends(plan, chain, dtype=torch.float32, device=CPU)
    return Case(tiny, plan, whole.eval(), chain, ends)
