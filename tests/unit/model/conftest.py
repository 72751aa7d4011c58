from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shardline.model import trace
from tests.parity.zoo import make, named

if TYPE_CHECKING:
    from pathlib import Path

    from shardline.model import ChainPlan


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama of 4 blocks, in one file; do not write to it."""
    directory = tmp_path_factory.mktemp("llama")
    make(named("llama"), directory)
    return directory


@pytest.fixture(scope="session")
def plan(llama: Path) -> ChainPlan:
    return trace(llama)
