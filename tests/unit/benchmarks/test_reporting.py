"""What a report says of the command that made it."""

import sys

import pytest

from benchmarks.reporting import typed


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("/somewhere/of/mine/peers", "peers"),
        ("--peers=/somewhere/of/mine/peers", "--peers=peers"),
        ("../peers", "peers"),
        ("~/models/llama", "llama"),
        ("--batches=1,4", "--batches=1,4"),
        ("0.6", "0.6"),
    ],
)
def test_a_report_names_the_command_and_no_place_on_this_machine(
    given: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/clone/benchmarks/rivals.py", "--tokens", "8", given])
    assert typed() == f"python -m benchmarks.rivals --tokens 8 {told}"
