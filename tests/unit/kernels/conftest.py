"""What tests of products share."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads torch computes with, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def functions_of() -> Callable[[str], set[str]]:
    """The functions that LLVM finds in a text."""
    llvm: Any = pytest.importorskip("llvmlite.binding")

    def found(text: str) -> set[str]:
        module = llvm.parse_assembly(text)
        module.verify()
        return {function.name for function in module.functions if not function.is_declaration}

    return found
