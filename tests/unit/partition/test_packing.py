"""The small simplex beside HiGHS."""

from __future__ import annotations

import importlib
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.partition.packing import Packing

_optimize = cast("Any", importlib.import_module("scipy.optimize"))


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 40))
@settings(max_examples=60)
def test_it_packs_as_much_as_highs_however_columns_come(seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.uniform(0.1, 2, (rows, columns)) * (rng.random((rows, columns)) < 0.4)
    table[rng.integers(0, rows, columns), np.arange(columns)] = 1.0
    packing = Packing(rows)
    split = int(rng.integers(0, columns + 1))
    for part in (table[:, :split], table[:, split:]):
        packing.add(part)
        found, prices = packing.solve()
    packing.drop(np.sort(packing.packed()))
    again, _ = packing.solve()
    best = -float(_optimize.linprog(-np.ones(columns), A_ub=table, b_ub=np.ones(rows)).fun)
    assert float(found.sum()) == pytest.approx(best)
    assert float(again.sum()) == pytest.approx(best)
    assert float(prices.sum()) == pytest.approx(best)
    assert (table @ found <= 1 + 1e-9).all()
    assert (prices @ table >= 1 - 1e-9).all()
