from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from shardline.model.trees import Tree, get, leaves, map_leaves, signature

plain = st.none() | st.booleans() | st.integers() | st.text(max_size=3)
trees = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(trees)
def test_a_leaf_is_where_its_path_says(tree: Tree) -> None:
    for path, leaf in leaves(tree):
        assert get(tree, path) is leaf


@given(trees)
def test_mapping_with_nothing_changes_nothing(tree: Tree) -> None:
    same = map_leaves(tree, lambda _, leaf: leaf)
    assert same == tree
    assert type(same) is type(tree)


@given(trees)
def test_equal_trees_have_equal_signatures(tree: Tree) -> None:
    assert signature(tree) == signature(map_leaves(tree, lambda _, leaf: leaf))


def test_equal_tensors_that_are_not_the_same_one_differ() -> None:
    one = torch.zeros(2)
    assert signature((one,)) == signature((one,))
    assert signature((one,)) != signature((one.clone(),))


def test_true_and_one_differ() -> None:
    assert signature((True,)) != signature((1,))
