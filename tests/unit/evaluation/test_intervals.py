"""Intervals and tests against values from elsewhere."""

from __future__ import annotations

import importlib
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.evaluation.intervals import bonett_price, bootstrap, mcnemar, wilson

binomtest = cast("Any", importlib.import_module("scipy.stats")).binomtest


def test_an_interval_holds_its_share() -> None:
    low, high = wilson(80, 100)
    assert 0.70 < low < 0.80 < high < 0.88
    assert wilson(100, 100)[1] == pytest.approx(1)


@given(right=st.integers(0, 500), more=st.integers(0, 500))
def test_wilsons_interval_is_scipys(right: int, more: int) -> None:
    count = right + more or 1
    right = min(right, count)
    theirs = binomtest(right, count).proportion_ci(0.95, "wilson")
    assert wilson(right, count) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


@given(gained=st.integers(0, 200), lost=st.integers(0, 200))
def test_mcnemars_test_is_a_fair_coins(gained: int, lost: int) -> None:
    theirs = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(theirs)


@given(gained=st.integers(0, 100), lost=st.integers(0, 100), same=st.integers(1, 1_000))
def test_a_change_lies_near_the_middle_of_its_interval(gained: int, lost: int, same: int) -> None:
    count = gained + lost + same
    low, high = bonett_price(gained, lost, count)
    assert low < high
    assert (low + high) / 2 == pytest.approx((gained - lost) / (count + 2))
    assert bonett_price(lost, gained, count) == pytest.approx((-high, -low))


def test_a_bootstrap_is_seeded_sorted_and_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    drawn = bootstrap(lambda at: values[at].mean(-1), 400)
    assert (np.diff(drawn) >= 0).all()
    assert np.array_equal(drawn, bootstrap(lambda at: values[at].mean(-1), 400))
    assert drawn.std() == pytest.approx(values.std() / 20, rel=0.1)
