"""What `shardline bench chaos` is asked for, and what it counts."""

import os

import pytest

from shardline.cli.bench import _course as course_of  # pyright: ignore[reportPrivateUsage]
from shardline.cli.bench import _table as table_of  # pyright: ignore[reportPrivateUsage]
from shardline.cli.chaos import FAULTS
from shardline.cli.chaos.toll import Toll
from shardline.core.errors import BadInput


def test_kills_are_kills_unless_told_otherwise() -> None:
    assert course_of(200, None, None).faults == ["kill"]
    assert course_of(None, None, None).count == 20
    assert course_of(5, None, "cut, full").faults == ["cut", "full"]


def test_minutes_alone_are_for_all_faults_and_have_no_count() -> None:
    course = course_of(None, 10, None)
    assert course.faults == list(FAULTS)
    assert course.count is None
    assert course_of(3, 10, None).count == 3


def test_without_cables_the_others_stay() -> None:
    assert course_of(None, 1, None).without_cables().faults == ["kill", "freeze", "full"]


def test_an_unknown_fault_is_bad_input_that_names_the_known_ones() -> None:
    with pytest.raises(BadInput, match=r"'flood' is no fault.*kill, freeze"):
        course_of(None, None, "kill,flood")


def test_a_process_counts_from_when_it_is_warm() -> None:
    toll, kept = Toll(), [os.open(os.devnull, os.O_RDONLY)]
    try:
        toll.look([os.getpid()])
        kept.append(os.open(os.devnull, os.O_RDONLY))
        toll.look([os.getpid()])
        assert toll.leaked_fds == 0
        kept.append(os.open(os.devnull, os.O_RDONLY))
        toll.look([os.getpid()])
        assert toll.leaked_fds == 1
    finally:
        for file in kept:
            os.close(file)


def test_the_table_has_a_line_for_each_fault() -> None:
    cut = {"count": 2, "recovery_p50_s": 3.25, "first_token_max_s": None}
    table = table_of({"kills": 0, "token_exact": 2, "by_fault": {"cut": cut}})
    assert table.splitlines()[-1].split() == ["cut", "2", "3.250", "-"]
