"""What every codec promises, whatever it loses."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardline.codec import (
    WIRES,
    Meter,
    TensorHeader,
    coarsest,
    encoder,
    exactly,
    from_bytes,
    pack,
    unpack,
)
from shardline.core.errors import BadInput, PeerFault

EXACT_ALWAYS = [
    torch.tensor([[1, 2], [3, -4]]),
    torch.tensor([True, False]),
    torch.tensor([0.1, float("nan")], dtype=torch.bfloat16),
    torch.randn(3, dtype=torch.float64),
    torch.zeros(2, 0, 3),
    torch.zeros(()),
    torch.zeros(5, dtype=torch.float16),
]


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("tensor", EXACT_ALWAYS, ids=lambda t: f"{t.dtype}{tuple(t.shape)}")
def test_some_tensors_cross_exactly_in_every_codec(wire: str, tensor: torch.Tensor) -> None:
    header, data = encoder(wire)(tensor)
    torch.testing.assert_close(
        from_bytes(header, bytes(data)), tensor, rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_codec_is_near_and_keeps_shape_and_dtype(wire: str, dtype: torch.dtype) -> None:
    tensor = torch.randn(2, 33, 65).to(dtype).transpose(0, 2)
    header, data = encoder(wire)(tensor)
    decoded = from_bytes(header, bytes(data))
    assert (header.codec, decoded.shape, decoded.dtype) == (wire, tensor.shape, dtype)
    assert (decoded - tensor).abs().max() <= 0.01 * tensor.abs().max()


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("width", [64, 128, 896, 5120])
def test_a_token_is_written_alike_alone_and_among_others(wire: str, width: int) -> None:
    tokens = torch.randn(2, 7, width) * torch.rand(2, 7, 1)
    header, data = encoder(wire)(tokens)
    together = from_bytes(header, bytes(data))
    for row, token in ((0, 0), (0, 6), (1, 3)):
        header, data = encoder(wire)(tokens[row : row + 1, token : token + 1])
        assert torch.equal(from_bytes(header, bytes(data))[0, 0], together[row, token])


@pytest.mark.parametrize("wire", WIRES)
def test_every_codec_refuses_bytes_cut_short_or_grown(wire: str) -> None:
    header, data = encoder(wire)(torch.randn(100))
    for wrong in (bytes(data)[:-1], bytes(data) + b"\0", b""):
        with pytest.raises(PeerFault):
            from_bytes(header, wrong)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("shape", [(2**62, 2**62, 0), (2**63, 0), (2**32, 2**32, 2**32, 0)])
def test_a_shape_that_torch_cannot_hold_is_refused(wire: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(PeerFault, match="not accepted"):
        from_bytes(TensorHeader(wire, "float32", shape, 64), b"")


def test_only_the_tensors_named_lose_anything() -> None:
    hidden, mask = torch.randn(1, 3, 64), torch.randn(1, 3, 3)
    tree: Any = {"carried": (hidden,), "again": hidden, "mask": mask}
    segments = pack(tree, (hidden,), encoder("int8", block=64))
    assert [segment.nbytes for segment in segments[1:]] == [3 * (64 + 4), 9 * 4]
    read: Any = unpack([bytes(segment) for segment in segments])
    assert torch.equal(read["mask"], mask)
    assert read["again"] is read["carried"][0]
    assert not torch.equal(read["again"], hidden)
    torch.testing.assert_close(read["again"], hidden, rtol=0, atol=0.01 * float(hidden.abs().max()))


def test_a_codec_or_a_block_that_is_not_to_be_had_is_named() -> None:
    with pytest.raises(BadInput, match="raw or int8, not int4"):
        encoder("int4")
    with pytest.raises(BadInput, match="64 to 65536 elements, not 1"):
        encoder("int8", block=1)


def test_a_codec_of_a_newer_peer_is_its_fault() -> None:
    with pytest.raises(PeerFault, match="int4 is not known"):
        from_bytes(TensorHeader("int4", "float32", (1,)), b"\0")


# --- WHICH CODEC A LINK TAKES ---

names = st.sampled_from([*WIRES, "int4", "", "zstd"])
several = st.lists(names, max_size=4)


@given(several, names, several)
def test_a_link_takes_what_its_receiver_reads_and_nobody_forbids(
    reads: list[str], allowed: str, also: list[str]
) -> None:
    wire = coarsest(reads, allowed, *also)
    assert wire == "raw" or wire in reads
    assert all(wire == "raw" or WIRES.index(wire) <= _rank(one) for one in (allowed, *also))
    for finer in WIRES[WIRES.index(wire) + 1 :]:
        assert finer not in reads or any(
            _rank(one) < WIRES.index(finer) for one in (allowed, *also)
        )
    assert coarsest([*reversed(reads)], *also, allowed) == wire, "whose word it is does not count"


def _rank(wire: str) -> int:
    return WIRES.index(wire) if wire in WIRES else 0


@pytest.mark.parametrize(
    ("reads", "session", "own", "wire"),
    [
        (WIRES, "int8", "int8", "int8"),
        (WIRES, "raw", "int8", "raw"),
        (WIRES, "int8", "raw", "raw"),
        (("raw",), "int8", "int8", "raw"),
        ((), "int8", "int8", "raw"),
        ((*WIRES, "int4"), "int4", "int8", "raw"),
    ],
)
def test_8_bits_take_three_to_agree(
    reads: tuple[str, ...], session: str, own: str, wire: str
) -> None:
    assert coarsest(reads, session, own) == wire


def test_a_meter_says_what_was_saved() -> None:
    meter = Meter(encoder("int8"))
    pack([torch.zeros(1, 2, 128), torch.ones(3)], (), meter)
    assert (meter.wire, meter.saved_bytes) == ("raw", 0)
    hidden = torch.randn(1, 2, 128)
    pack([hidden, torch.ones(3)], (hidden,), meter)
    assert (meter.wire, meter.saved_bytes) == ("int8", 2 * 128 * 4 - 2 * (128 + 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_who_reads_raw_only_gets_the_very_values_that_others_read(dtype: torch.dtype) -> None:
    hidden = torch.randn(1, 3, 128).to(dtype)
    tree: Any = {"carried": (hidden,), "mask": torch.randn(3, 3)}
    segments = pack(tree, (hidden,), encoder("int8"))
    raw = [bytes(segment) for segment in exactly(segments)]
    read: Any = unpack([bytes(segment) for segment in segments])
    assert raw == [bytes(segment) for segment in pack(read)], "nothing but raw in it"
    again: Any = unpack(raw)
    assert torch.equal(again["carried"][0], read["carried"][0])
    assert torch.equal(again["mask"], tree["mask"])
