import contextlib
from typing import Any, cast

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.codec import Marker, Tree, pack, unpack
from shardline.codec.trees import DEPTH_MAX
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
