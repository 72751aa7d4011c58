import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.core.errors import BadInput
from shardline.core.units import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("8GiB", 8 * 2**30), ("512 MB", 512 * 10**6), ("1.5kib", 1536), ("77", 77), ("2 TiB", 2**41)],
)
def test_sizes_are_read_as_people_write_them(text: str, size_bytes: int) -> None:
    assert parse_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "1 PB", "0", "0.1", "1e9", "8 Gi"])
def test_what_is_no_size_says_what_is(text: str) -> None:
    with pytest.raises(BadInput, match="write 8GiB"):
        parse_bytes(text)


@given(st.integers(1, 2**50))
def test_what_is_printed_is_close_to_what_it_is(size_bytes: int) -> None:
    assert parse_bytes(format_bytes(size_bytes)) == pytest.approx(size_bytes, rel=0.051)
