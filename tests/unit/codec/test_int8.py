"""Bounds are relative to the largest magnitude of a value's block, on top of the dtype's own."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.codec import int8
from shardline.codec.raw import TensorHeader
from shardline.core.errors import BadInput, PeerFault

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
CODES = int8.dynamic_map()


@dataclass(frozen=True)
class Case:
    tensor: torch.Tensor
    block: int


def random_values(seed: int, elements: int, sigma: float) -> torch.Tensor:
    """Values of many magnitudes around `sigma`, a tenth of them exactly 0."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(elements, generator=generator)
    decades = 10 ** (3 * torch.rand(elements, generator=generator) - 2)
    kept = torch.rand(elements, generator=generator) > 0.1
    return normal * decades * kept * sigma


@st.composite
def cases(draw: st.DrawFn, *, subnormal: bool = True) -> Case:
    """With `subnormal`, also of values so small that their dtype has few digits left."""
    dtype = draw(st.sampled_from(DTYPES if subnormal else DTYPES[:2]))
    shape = draw(st.lists(st.integers(0, 9), max_size=4))
    block = draw(st.integers(64, 300) | st.just(int8.BLOCK))
    sigmas = [1e-6, 0.01, 1.0, 30.0]
    if dtype != torch.float16:
        sigmas += [1e30, 1e-35] if subnormal else [1e30]
    sigma = draw(st.sampled_from(sigmas))
    values = random_values(draw(st.integers(0, 2**32)), math.prod(shape), sigma)
    tensor = values.reshape(shape).to(dtype)
    return Case(tensor.transpose(0, -1) if tensor.dim() > 1 else tensor, block)


def cut(flat: torch.Tensor, size: int) -> list[torch.Tensor]:
    return [flat[start : start + size] for start in range(0, len(flat), size)]


def sent(case: Case) -> tuple[TensorHeader, bytearray]:
    header, data = int8.to_bytes(case.tensor, case.block)
    assert header.codec == "int8"
    return header, bytearray(data)


def back(case: Case) -> torch.Tensor:
    return int8.from_bytes(*sent(case))


def magnitudes(case: Case) -> torch.Tensor:
    """For each element, in a row, the largest magnitude of its block."""
    flat = case.tensor.reshape(-1).double().abs()
    pieces = [piece.max().expand(len(piece)) for piece in cut(flat, case.block)]
    return torch.cat(pieces) if pieces else flat


def allowed(shares: torch.Tensor) -> torch.Tensor:
    """Of magnitudes relative to their block's largest: half a step of their decade's codes, and
    what rounding the quotient to float16 may take besides."""
    decade = (shares.clamp_min(1e-7).log10() + 7).ceil().clamp(1, 7) - 1
    return 0.45 * 10 ** (decade - 6) / 2**decade + 2.0**-10 * shares + 2.0**-24


@given(cases())
@settings(max_examples=150)
def test_an_error_is_at_most_half_a_step_between_codes(case: Case) -> None:
    values, largest = case.tensor.reshape(-1).double(), magnitudes(case)
    decoded = back(case).reshape(-1).double()
    shares = values.abs() / largest.clamp_min(1e-300)
    dtype = torch.finfo(case.tensor.dtype)
    own = dtype.eps * decoded.abs() + dtype.smallest_normal * dtype.eps
    assert ((decoded - values).abs() <= allowed(shares) * largest + own).all()
    assert ((decoded - values).abs() <= 0.0076 * largest + own).all()


@given(cases())
def test_shape_and_dtype_come_back_and_a_block_costs_four_bytes(case: Case) -> None:
    header, data = sent(case)
    decoded = int8.from_bytes(header, data)
    assert (decoded.shape, decoded.dtype) == (case.tensor.shape, case.tensor.dtype)
    assert len(data) == case.tensor.numel() + 4 * math.ceil(case.tensor.numel() / case.block)


@given(cases())
def test_signs_stay_and_zero_is_exact(case: Case) -> None:
    decoded = back(case)
    assert (decoded.sign() * case.tensor.sign() >= 0).all()
    assert (decoded[case.tensor == 0] == 0).all()


def test_a_block_of_zeros_is_written_as_zeros() -> None:
    assert bytes(int8.to_bytes(torch.tensor([0.0, -0.0, 0.0]))[1]) == bytes(4) + b"\x7f" * 3


@given(cases())
def test_within_a_block_order_stays(case: Case) -> None:
    values = case.tensor.reshape(-1)[: case.block].sort().values
    assert (back(Case(values, case.block)).double().diff() >= 0).all()


@given(cases(subnormal=False))
def test_what_came_back_is_written_with_the_same_codes(case: Case) -> None:
    # 1 is a code and -1 is none: blocks whose largest is negative shrink once more by 0.7%.
    flat = case.tensor.reshape(-1)
    pieces = cut(flat, case.block - 1)
    rows = [torch.cat([piece, piece.abs().max().reshape(1)]) for piece in pieces]
    tensor = torch.cat(rows) if rows else flat
    header, data = int8.to_bytes(tensor, case.block)
    again = int8.to_bytes(int8.from_bytes(header, data), case.block)
    assert (again[0], bytes(again[1])) == (header, bytes(data))


@given(cases())
def test_blocks_know_nothing_of_each_other(case: Case) -> None:
    values = case.tensor.reshape(-1)
    together = cut(back(Case(values, case.block)), case.block)
    for piece, decoded in zip(cut(values, case.block), together, strict=True):
        assert torch.equal(back(Case(piece, case.block)), decoded)


@pytest.mark.parametrize("block", [64, 1000, 4096, 65_536])
def test_large_tensors_are_written_piece_by_piece_alike(block: int) -> None:
    values = random_values(block, int8.PIECE * 2 + 777, 1.0).bfloat16()
    pieces = [bytes(int8.to_bytes(part, block)[1]) for part in cut(values, block)]
    _, data = int8.to_bytes(values, block)
    assert bytes(data) == b"".join([p[:4] for p in pieces] + [p[4:] for p in pieces])


@pytest.mark.parametrize(
    ("width", "block"),
    [(4096, 4096), (128, 128), (5120, 2560), (14_336, 3584), (63, 4096), (0, 4096), (8191, 4096)],
)
def test_a_block_divides_a_row_where_one_can(width: int, block: int) -> None:
    assert int8.block_for(width, 4096) == block


def test_the_map_is_that_of_the_source() -> None:
    assert len(CODES) == 256
    assert (CODES.diff() > 0).all()
    assert torch.equal(CODES[:127], -CODES[128:255].flip(0))
    assert CODES[127] == 0
    assert CODES[255] == 1
    few = torch.tensor([5.5e-7, 3.25e-6, 7.75e-6])
    torch.testing.assert_close(CODES[128:131], few)
    torch.testing.assert_close(CODES[253:255], torch.tensor([1 - 0.9 * 1.5 / 64, 1 - 0.45 / 64]))


def test_every_quotient_gets_the_nearest_code() -> None:
    positive = torch.arange(0x3C01, dtype=torch.int16).view(torch.float16)  # all from 0 to 1
    quotients = torch.cat([positive, -positive])
    _, data = int8.to_bytes(quotients, int8.BLOCK_MAX)
    codes = torch.frombuffer(bytearray(data[4:]), dtype=torch.uint8).long()
    errors = (quotients.double()[:, None] - CODES.double()).abs()
    chosen = errors.gather(1, codes[:, None])[:, 0]
    assert torch.equal(chosen, errors.min(1).values)


def test_an_outlier_costs_its_own_block_only_and_that_little() -> None:
    # A hidden state's massive channel: with codes of even steps all else would be 0.
    values = random_values(7, 8192, 0.1).bfloat16()
    values[5] = 500.0
    wide, narrow = back(Case(values, 4096)), back(Case(values, 64))
    rest = values.float()[6:4096]
    lost = [(kept.float()[6:4096] - rest).square().mean().sqrt() for kept in (wide, narrow)]
    assert wide[5] == 500.0
    assert lost[1] < lost[0] < 0.1 * rest.square().mean().sqrt()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_a_tensor_with_nan_or_infinity_crosses_as_it_is(dtype: torch.dtype, odd: float) -> None:
    values = torch.randn(3, 100).to(dtype)
    values[2, 7] = odd
    header, data = int8.to_bytes(values, 64)
    assert header == TensorHeader("raw", str(dtype).removeprefix("torch."), (3, 100))
    assert bytes(data) == values.view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.bool, torch.complex64])
def test_what_is_no_activation_crosses_as_it_is(dtype: torch.dtype) -> None:
    assert int8.to_bytes(torch.ones(5, dtype=dtype))[0].codec == "raw"


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_and_least_numbers_of_a_dtype_stay_finite(dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    for edge in (limits.max, limits.smallest_normal, limits.smallest_normal * limits.eps):
        values = torch.tensor([edge, -edge, edge / 2, 0.0]).to(dtype)
        decoded = back(Case(values, 64))
        assert decoded.isfinite().all()
        assert decoded[0] == values[0]


@pytest.mark.parametrize("block", [0, -1, 63, 65_537])
def test_a_block_out_of_bounds_is_refused_on_both_sides(block: int) -> None:
    with pytest.raises(BadInput, match="64 to 65536 elements"):
        int8.to_bytes(torch.ones(4), block)
    with pytest.raises(PeerFault, match=f"blocks of {block}"):
        int8.from_bytes(TensorHeader("int8", "float32", (4,), block), bytes(8))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, -1e-9, 3.4e38])
@pytest.mark.parametrize("place", [0, 1])
def test_a_scale_that_is_no_magnitude_is_refused(
    dtype: torch.dtype, scale: float, place: int
) -> None:
    header, data = sent(Case(torch.ones(80, dtype=dtype), 64))
    torch.frombuffer(data, dtype=torch.float32, count=2)[place] = scale
    if scale == 3.4e38 and dtype == torch.float32:
        assert int8.from_bytes(header, data).isfinite().all()
    else:
        with pytest.raises(PeerFault, match="no magnitudes"):
            int8.from_bytes(header, data)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("float64", (4,)),
        ("int8", (4,)),
        ("float128", (4,)),
        ("float32", (3,)),
        ("float32", (5,)),
        ("float32", ()),
        ("float32", (-2, -2)),
        ("float32", (2**40, 2**40)),
        ("float32", (1,) * 8 + (4,)),
    ],
)
def test_a_header_that_lies_is_refused(dtype: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(PeerFault):
        int8.from_bytes(TensorHeader("int8", dtype, shape, 64), bytes(8))


@given(
    st.sampled_from(["float32", "bfloat16", "float16"]),
    st.integers(1, 99),
    st.integers(64, 80),
    st.data(),
)
def test_any_bytes_are_a_finite_tensor_or_the_peers_fault(
    dtype: str, elements: int, block: int, data: st.DataObject
) -> None:
    size = elements + 4 * math.ceil(elements / block)
    garbage = data.draw(st.binary(min_size=size, max_size=size))
    try:
        decoded = int8.from_bytes(TensorHeader("int8", dtype, (elements,), block), garbage)
    except PeerFault:
        return
    assert decoded.isfinite().all()
    assert decoded.shape == (elements,)
