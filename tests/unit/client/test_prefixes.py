from hypothesis import given
from hypothesis import strategies as st

from shardline.client.prefixes import Naming, along
from shardline.core.ids import NodeId
from shardline.model import PAGE_TOKENS
from shardline.wire import PREFIX_PAGES_MAX

KEY = b"k" * 32
A, B = NodeId("a" * 64), NodeId("b" * 64)
prompts = st.lists(st.integers(0, 2), min_size=1, max_size=4).map(
    lambda pages: [token for page in pages for token in [page] * PAGE_TOKENS] + [9]
)


@given(prompts, prompts)
def test_pages_have_the_same_name_exactly_as_far_as_two_prompts_are_the_same(
    one: list[int], other: list[int]
) -> None:
    first, second = Naming("kind", KEY).prefix(one), Naming("kind", KEY).prefix(other)
    for page, names in enumerate(zip(first.digests, second.digests, strict=False), start=1):
        same = one[: page * PAGE_TOKENS] == other[: page * PAGE_TOKENS]
        assert (names[0] == names[1]) == same


def test_a_token_is_left_to_compute_and_long_prompts_are_named_in_part() -> None:
    for tokens, pages in ((1, 0), (64, 0), (65, 1), (128, 1), (129, 2)):
        assert len(Naming("kind").prefix([7] * tokens).digests) == pages
    assert len(Naming("kind").prefix([7] * 10**5).digests) == PREFIX_PAGES_MAX


def test_other_keys_kinds_and_nodes_before_give_other_names() -> None:
    tokens = list(range(100))
    (name,) = Naming("kind", KEY).prefix(tokens).digests
    assert Naming("kind").prefix(tokens).digests != (name,)
    assert Naming("other kind", KEY).prefix(tokens).digests != (name,)
    ways = [along([name], way)[0] for way in ([], [A], [B], [A, B], [B, A])]
    assert len({name, *ways}) == 6
