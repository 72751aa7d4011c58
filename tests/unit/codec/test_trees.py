import contextlib
from collections.abc import Mapping
from typing import Any, cast

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.codec import Marker, Reader, Tree, pack, unpack
from shardline.codec.trees import DEPTH_MAX, KNOWN_BYTES_MAX, KNOWN_MAX
from shardline.core.errors import PeerFault

DTYPES = [
    torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64,
]  # fmt: skip


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    seed = draw(st.integers(0, 2**16))
    random = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 50
    tensor = random.to(dtype)
    return tensor.transpose(0, -1) if tensor.dim() > 1 and draw(st.booleans()) else tensor


scalars = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=9)
scalars = scalars | st.floats(allow_nan=False) | st.builds(Marker, st.text(max_size=9))
trees = st.recursive(
    scalars | tensors(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


def same(left: Any, right: Any) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        return (
            left.dtype == right.dtype
            and left.shape == right.shape
            and torch.equal(left.reshape(-1), right.reshape(-1))
        )
    if isinstance(left, dict):
        pairs = cast("dict[str, Any]", left)
        return pairs.keys() == right.keys() and all(same(pairs[k], right[k]) for k in pairs)
    if isinstance(left, list | tuple):
        items = cast("list[Any]", left)
        return len(items) == len(right) and all(map(same, items, right))
    return bool(left == right)


def sent(tree: Tree) -> list[bytes]:
    return [bytes(segment) for segment in pack(tree)]


@given(trees)
@settings(max_examples=200)
def test_what_is_packed_is_what_is_unpacked_bit_by_bit(tree: Tree) -> None:
    assert same(unpack(sent(tree)), tree)


def test_a_tensor_named_twice_crosses_once() -> None:
    mask = torch.ones(3, 5)
    segments = pack({"a": mask, "b": (mask, torch.zeros(2))})
    assert [segment.nbytes for segment in segments[1:]] == [60, 8]
    tree: Any = unpack([bytes(segment) for segment in segments])
    assert tree["a"] is tree["b"][0]


def test_a_writable_segment_is_not_copied() -> None:
    buffers = [bytearray(segment) for segment in pack((torch.zeros(4),))]
    (tensor,) = cast("tuple[torch.Tensor]", unpack(buffers))
    buffers[1][:4] = b"\x00\x00\x80\x3f"
    assert tensor[0] == 1.0


def test_a_leaf_of_another_kind_is_refused_when_it_is_sent() -> None:
    with pytest.raises(TypeError, match="a set cannot cross a link"):
        pack(cast("Any", {"a": {1, 2}}))


@given(trees, st.data())
@settings(max_examples=300)
def test_damaged_segments_are_the_peers_fault_or_another_tree(
    tree: Tree, data: st.DataObject
) -> None:
    segments = sent(tree)
    at = data.draw(st.integers(0, len(segments) - 1))
    broken = bytearray(segments[at])
    match data.draw(st.sampled_from(["flip", "cut", "grow", "drop", "swap"])):
        case "flip" if broken:
            broken[data.draw(st.integers(0, len(broken) - 1))] ^= data.draw(st.integers(1, 255))
        case "cut" if broken:
            broken = broken[: data.draw(st.integers(0, len(broken) - 1))]
        case "grow":
            broken += data.draw(st.binary(min_size=1, max_size=9))
        case "drop":
            segments = segments[:at] + segments[at + 1 :]
        case _:
            segments = segments[::-1]
    if at < len(segments):
        segments[at] = bytes(broken)
    with contextlib.suppress(PeerFault):
        unpack(segments)


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_garbage_is_the_peers_fault(segments: list[bytes]) -> None:
    with pytest.raises(PeerFault):
        unpack([b"\xc1", *segments])


def test_text_that_is_not_utf8_is_the_peers_fault() -> None:
    with pytest.raises(PeerFault):
        unpack([b"\x92\x90\x92\xa1u\x91\xa2\xff\xfe"])


def nested(depth: int) -> Tree:
    tree: Tree = 1
    for _ in range(depth):
        tree = (tree,)
    return tree


def test_depth_is_bounded() -> None:
    assert unpack(sent(nested(DEPTH_MAX))) == nested(DEPTH_MAX)
    with pytest.raises(PeerFault, match="too deep"):
        unpack(sent(nested(DEPTH_MAX + 1)))


def test_a_bomb_of_repeated_leaves_is_bounded() -> None:
    with pytest.raises(PeerFault, match="too large"):
        unpack(sent((0,) * 70_000))


@pytest.mark.parametrize(
    ("codec", "dtype", "shape"),
    [
        ("raw", "float32", [2]),
        ("raw", "float32", [-1, -1]),
        ("raw", "float32", [2**40, 2**40]),
        ("raw", "float128", [1]),
        ("int9", "float32", [1]),
        ("raw", "float32", [1] * 9),
    ],
)
def test_a_header_that_lies_is_refused_before_memory_is_taken(
    codec: str, dtype: str, shape: list[int]
) -> None:
    structure = msgspec.msgpack.encode([[[codec, dtype, shape]], ["t", 0]])
    with pytest.raises(PeerFault):
        unpack([structure, b"\x00" * 4])


def test_a_tensor_that_was_not_sent_cannot_be_named() -> None:
    structure = msgspec.msgpack.encode([[["raw", "float32", [1]]], ["t", 1]])
    with pytest.raises(PeerFault, match="tensor 1 of 1"):
        unpack([structure, b"\x00" * 4])


def swapped(tree: Tree, tensors: Mapping[int, torch.Tensor]) -> Tree:
    if isinstance(tree, torch.Tensor):
        return tensors[id(tree)]
    if isinstance(tree, dict):
        return {key: swapped(child, tensors) for key, child in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(swapped(child, tensors) for child in tree)
    return tree


class Reading:
    """A reader of plain trees, and how often it made one anew."""

    def __init__(self) -> None:
        self.made = 0
        self.read = Reader(self._make, swapped)

    def _make(self, tree: Tree) -> Tree:
        self.made += 1
        return tree


@given(trees, st.integers(1, 5))
@settings(max_examples=100)
def test_a_reader_gives_what_unpack_gives_though_it_knows_the_structure(
    tree: Tree, factor: int
) -> None:
    reading = Reading()
    for each in ((tree,), (_scaled(tree, factor),), (tree,)):
        assert same(reading.read(sent(each)), unpack(sent(each)))
    assert reading.made == 1


def _scaled(tree: Tree, factor: int) -> Tree:
    if isinstance(tree, torch.Tensor):
        return (tree.float() * factor).to(tree.dtype) if tree.is_floating_point() else tree
    if isinstance(tree, dict):
        return {key: _scaled(child, factor) for key, child in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_scaled(child, factor) for child in tree)
    return tree


def test_a_known_structure_with_other_lengths_is_the_peers_fault() -> None:
    reading = Reading()
    good = sent((torch.zeros(3), Marker("cache")))
    reading.read(good)
    for bad in ([good[0]], [*good, b"more"], [good[0], good[1] + b"xxxx"], [good[0], b""], []):
        with pytest.raises(PeerFault):
            reading.read(bad)


def test_a_reader_keeps_neither_large_trees_nor_many() -> None:
    reading = Reading()
    large = sent(torch.zeros(KNOWN_BYTES_MAX, dtype=torch.uint8))
    for _ in range(2):
        reading.read(large)
    assert reading.made == 2
    for size in range(KNOWN_MAX + 1):
        reading.read(sent(torch.zeros(size)))
    reading.made = 0
    reading.read(sent(torch.zeros(KNOWN_MAX)))
    assert reading.made == 0
    reading.read(sent(torch.zeros(0)))
    assert reading.made == 1


def test_what_is_no_tree_of_its_reader_is_not_known_later() -> None:
    def refuse(tree: Tree) -> Tree:
        raise PeerFault(str(tree))

    read = Reader(refuse, swapped)
    for _ in range(2):
        with pytest.raises(PeerFault):
            read(sent(1))
