from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from shardline.model.graph import capture
from tests.support import graphs

if TYPE_CHECKING:
    from torch import nn

    from shardline.model.graph import Graph, GraphPlan


@pytest.fixture(scope="session")
def towers() -> nn.Module:
    return graphs.towers()


@pytest.fixture(scope="session")
def graph(towers: graphs.Towers) -> Graph:
    return capture(towers, (graphs.some()["words"],), {"image": torch.ones(2, 16)})


@pytest.fixture(scope="session")
def plan(towers: graphs.Towers, tmp_path_factory: pytest.TempPathFactory) -> GraphPlan:
    """Cut in a folder that no test changes."""
    return graphs.cut_towers(towers, tmp_path_factory.mktemp("towers"))
