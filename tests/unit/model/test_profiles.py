from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.core.errors import BlocksOutOfRange
from shardline.core.spans import Span
from shardline.model import (
    BlockKind,
    Line,
    Profile,
    Setup,
    Timing,
    fit,
    keep_profile,
    kept_profile,
    newest_profile,
)

if TYPE_CHECKING:
    from pathlib import Path

SETUP = Setup("f" * 32, "a processor", "float32", 2, "2.13.0", "torch")

milliseconds = st.floats(0.001, 1e4)


def timing(batch: int, tokens: int, ms: float) -> Timing:
    return Timing(batch, tokens, 0, ms, ms, ms, 3)


timings = st.builds(
    timing,
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 16, 64, 256]),
    milliseconds,
)


def kind(blocks: tuple[int, ...], measured: list[Timing]) -> BlockKind:
    decode = [one for one in measured if one.tokens == 1] or measured
    return BlockKind("Block", blocks, 800, 16, 0, tuple(measured), fit(decode), fit(measured))


places = st.lists(st.integers(0, 2), min_size=1, max_size=12)
"""Which kind each block is of."""
measures = st.lists(st.lists(timings, min_size=1, max_size=6), min_size=3, max_size=3)
"""What was measured of each kind."""


def profile_of(places: list[int], measured: list[list[Timing]]) -> Profile:
    groups = [tuple(i for i, place in enumerate(places) if place == group) for group in range(3)]
    found = [kind(group, measured[place]) for place, group in enumerate(groups) if group]
    return Profile(SETUP, "tiny", 1.0, 256, tuple(found))


# --- LINES ---


@given(milliseconds, st.floats(0.0, 10.0))
def test_a_line_is_found_again(fixed_ms: float, per_token_ms: float) -> None:
    line = Line(fixed_ms, per_token_ms)
    points = [Timing(1, n, 0, line.ms(n), 0.0, 0.0, 1) for n in (1, 16, 64)]
    found = fit(points)
    for n in (1, 16, 64, 1000):
        assert found.ms(n) == pytest.approx(line.ms(n), rel=1e-4)


@given(st.lists(timings, min_size=1, max_size=8))
def test_a_line_never_falls_and_is_never_below_zero(measured: list[Timing]) -> None:
    line = fit(measured)
    assert line.fixed_ms >= 0
    assert line.per_token_ms >= 0
    assert line.ms(1) > 0


@given(st.lists(timings, min_size=1, max_size=8), st.floats(0, 2), st.floats(0, 2))
def test_no_other_line_is_nearer(measured: list[Timing], more: float, steeper: float) -> None:
    def off(line: Line) -> float:
        return sum((line.ms(t.batch * t.tokens) / t.median_ms - 1) ** 2 for t in measured)

    line = fit(measured)
    other = Line(line.fixed_ms * more, line.per_token_ms * steeper)
    assert off(line) <= off(other) + 1e-6


def test_one_measured_step_is_a_fixed_cost() -> None:
    assert fit([Timing(1, 1, 128, 3.0, 3.0, 3.0, 1)]) == Line(3.0, 0.0)


# --- STEPS ---


pairs = st.tuples(st.integers(1, 600), st.integers(1, 9))


@given(places, measures, pairs, pairs)
def test_more_tokens_or_sequences_never_cost_less(
    places: list[int], measured: list[list[Timing]], one: tuple[int, int], two: tuple[int, int]
) -> None:
    profile = profile_of(places, measured)
    less, more = (tuple(map(pick, one, two)) for pick in (min, max))
    whole = Span(0, profile.blocks)
    assert profile.step_ms(whole, *less) <= profile.step_ms(whole, *more)


@given(places, measures, pairs, pairs)
def test_a_span_costs_what_its_parts_cost(
    places: list[int], measured: list[list[Timing]], step: tuple[int, int], ends: tuple[int, int]
) -> None:
    profile, (tokens, batch) = profile_of(places, measured), step
    start = ends[0] % profile.blocks
    stop = min(start + ends[1], profile.blocks)
    each = profile.block_ms(tokens, batch)
    assert profile.step_ms(Span(start, stop), tokens, batch) == pytest.approx(sum(each[start:stop]))
    whole = profile.step_ms(Span(0, profile.blocks), tokens, batch)
    assert 0 < profile.step_ms(Span(start, stop), tokens, batch) <= whole * (1 + 1e-9)


def test_what_is_no_step_is_refused() -> None:
    profile = Profile(SETUP, "tiny", 1.0, 256, (kind((0, 1), [Timing(1, 1, 0, 1.0, 1.0, 1.0, 1)]),))
    with pytest.raises(BlocksOutOfRange, match="1:3 are not within this model's 0:2"):
        profile.step_ms(Span(1, 3))
    for tokens, batch in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="a step of"):
            profile.step_ms(Span(0, 1), tokens, batch)


# --- FILES ---


@pytest.fixture
def profile() -> Profile:
    return Profile(SETUP, "tiny", 1.0, 256, (kind((0, 1), [Timing(1, 1, 0, 1.0, 1.0, 1.0, 1)]),))


@given(places, measures)
def test_json_there_and_back_is_the_same(places: list[int], measured: list[list[Timing]]) -> None:
    profile = profile_of(places, measured)
    assert Profile.from_json(profile.to_json()) == profile


def test_what_is_kept_is_found_by_its_setup(tmp_path: Path, profile: Profile) -> None:
    folder = tmp_path / "profiles"
    assert kept_profile(folder, SETUP) is None
    keep_profile(folder, profile)
    assert kept_profile(folder, SETUP) == profile
    for other in (
        replace(SETUP, fingerprint="0" * 32),
        replace(SETUP, device="another"),
        replace(SETUP, dtype="bfloat16"),
        replace(SETUP, threads=1),
        replace(SETUP, torch="2.14.0"),
        replace(SETUP, products="panels"),
    ):
        assert kept_profile(folder, other) is None
    assert len(list(folder.iterdir())) == 1


def spoil(data: bytes, how: str) -> bytes:
    spoilt = {
        "empty": b"",
        "cut": data[: len(data) // 2],
        "bytes": b"\xff\x00" + data,
        "list": b"[]",
        "deep": b"[" * 100_000,
        "huge": data + b" " * 2**23,
        "negative": data.replace(b'"fixed_ms":1.0', b'"fixed_ms":-1.0'),
        "gap": data.replace(b"[0,1]", b"[0,2]"),
        "foreign": data.replace(b"a processor", b"b processor"),
    }
    return spoilt[how]


@pytest.mark.parametrize(
    "how",
    ["empty", "cut", "list", "deep", "huge", "negative", "gap", "bytes", "foreign"],
)
def test_a_file_that_is_spoilt_or_foreign_is_as_good_as_none(
    tmp_path: Path, profile: Profile, how: str
) -> None:
    keep_profile(tmp_path, profile)
    (file,) = tmp_path.iterdir()
    data = file.read_bytes()
    assert spoil(data, how) != data
    file.write_bytes(spoil(data, how))
    assert kept_profile(tmp_path, SETUP) is None
    keep_profile(tmp_path, profile)
    assert kept_profile(tmp_path, SETUP) == profile


def test_the_newest_of_a_model_and_dtype_counts(tmp_path: Path, profile: Profile) -> None:
    assert newest_profile(tmp_path / "none", "f" * 32, "float32") is None
    old = replace(profile, setup=replace(SETUP, threads=8), measured_at_s=5.0)
    new = replace(profile, setup=replace(SETUP, threads=4), measured_at_s=9.0)
    other = replace(profile, setup=replace(SETUP, dtype="bfloat16"), measured_at_s=20.0)
    for one in (new, old, other):
        keep_profile(tmp_path, one)
    (tmp_path / f"{'f' * 16}-spoilt.json").write_bytes(b"{")
    assert newest_profile(tmp_path, "f" * 32, "float32") == new
    assert newest_profile(tmp_path, "e" * 32, "float32") is None


def test_a_folder_that_cannot_be_written_is_said_and_no_more(
    tmp_path: Path, profile: Profile, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    keep_profile(tmp_path / "file", profile)
    assert "cannot be kept" in caplog.text
