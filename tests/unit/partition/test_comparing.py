"""All methods on one problem, against one bound."""

from __future__ import annotations

from shardline.core.errors import BadInput
from shardline.partition import METHODS, Plan, compare, make


def test_all_are_measured_against_the_best_bound_of_any() -> None:
    found = compare(make("homes", 5, 12), budget_s=None)
    assert set(found) == set(METHODS) - {"search"}
    plans = [one for one in found.values() if isinstance(one, Plan)]
    (bound_ms,) = {one.lower_bound_ms for one in plans}
    assert all(one.gap == max(0.0, one.value_ms / bound_ms - 1) for one in plans)
    assert min(one.gap for one in plans) == 0


def test_exact_is_left_out_where_it_would_take_long() -> None:
    assert set(compare(make("lan", 9, 12), ["exact", "greedy"])) == {"greedy"}


def test_a_method_that_finds_no_plan_says_why() -> None:
    small = make("lan", 4, 12).without({"n000", "n001", "n002"})
    (said,) = compare(small, ["memory"]).values()
    assert isinstance(said, BadInput)
    assert "add nodes" in str(said)
