"""What `shardline bench node` and `bench chain` are asked for, and the table they print."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.cli.bench_run import even_spans
from shardline.cli.bench_table import node_table
from shardline.cli.bench_wanted import Wanted, dtype_of, numbers, own_cores, serve_options
from shardline.cli.main import run
from shardline.cli.serve import serve
from shardline.core.errors import BadInput
from shardline.core.spans import gaps


def test_numbers_are_taken_once_and_in_order() -> None:
    assert numbers("8,1,4,1", 256) == (1, 4, 8)


@pytest.mark.parametrize("text", ["", "0", "1,", "x", "-1", "257", "1;2", "9" * 40])
def test_what_is_no_number_is_bad_input(text: str) -> None:
    with pytest.raises(BadInput, match="are no numbers from 1 to 256"):
        numbers(text, 256)


def test_plain_kinds_of_weights_are_dtypes_and_need_no_option() -> None:
    assert (dtype_of("bf16"), dtype_of("float32"), dtype_of(None)) == ("bfloat16", "float32", None)
    assert not serve_options("bf16")


def test_other_kinds_are_those_of_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    option = click.Option(["--weights"], type=click.Choice(["bf16", "int8"]))
    others = [one for one in serve.params if "--weights" not in one.opts]
    monkeypatch.setattr(serve, "params", [*others, option])
    assert serve_options("int8") == ("--weights", "int8")
    assert dtype_of("int8") is None
    with pytest.raises(BadInput, match=r"'int3' is no kind of weights: .* bf16, fp32, int8"):
        serve_options("int3")
    monkeypatch.setattr(serve, "params", others)
    with pytest.raises(BadInput, match=r"one of bf16, fp32$"):
        serve_options("int8")


def wanted(nodes: int, *, pin: bool | None, device: str = "cpu") -> Wanted:
    return Wanted(
        model=None,
        shape="shipped",
        weights=None,
        threads=2,
        device=device,
        nodes=nodes,
        callers=1,
        batches=(1,),
        prompts=(32,),
        tokens=4,
        arrivals=0,
        rows=False,
        pin=pin,
        quick=True,
    )


def test_several_nodes_share_no_core_where_there_are_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shardline.cli.bench_wanted.free_cores", lambda: (0, 2, 3, 5))
    both = [("--cores", "0,2"), ("--cores", "3,5")]
    assert own_cores(wanted(2, pin=None), 2) == own_cores(wanted(2, pin=True), 2) == both
    assert own_cores(wanted(1, pin=True), 2) == both[:1]
    for free in (wanted(2, pin=False), wanted(1, pin=None), wanted(2, pin=None, device="cuda:0")):
        assert own_cores(free, 2) == ()
    assert own_cores(wanted(3, pin=None), 2) == ()
    with pytest.raises(BadInput, match="--pin needs 6 cores, and this process may use 4"):
        own_cores(wanted(3, pin=True), 2)


def test_no_node_is_pinned_where_the_system_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    assert own_cores(wanted(2, pin=None), 1) == ()
    with pytest.raises(BadInput, match="does not let a program choose its cores"):
        own_cores(wanted(2, pin=True), 1)


@given(st.data(), st.integers(1, 200))
def test_spans_cover_all_blocks_and_are_even(data: st.DataObject, blocks: int) -> None:
    nodes = data.draw(st.integers(1, blocks))
    spans = even_spans(blocks, nodes)
    assert len(spans) == nodes
    assert gaps(spans, blocks) == []
    lengths = [len(span) for span in spans]
    assert max(lengths) - min(lengths) <= 1
    assert sum(lengths) == blocks


def report(**more: Any) -> dict[str, Any]:
    batch = {"batch": 8, "tokens_per_s": 124.0, "hf_tokens_per_s": 61.5}
    node = {"name": "ada", "blocks": "0:8", "rss_bytes": 2**30}
    return {
        "model": "tinyllama-1.1b",
        "weights": "bf16",
        "device": "a processor",
        "threads": 2,
        "nodes": [node, node],
        "batches": [batch],
        "time_to_first_token_s": {"128": 1.25, "4096": None},
        "prefill_share": {"128": 0.5},
        "skipped": {"4096": "left out: the model's context is 512 tokens"},
        "bandwidth_share": 0.844,
        "read_gb_per_s": 13.9,
        "matmul_gflop_per_s": 212.3,
        "python_ms_per_layer": 0.4,
    } | more


def test_the_table_has_a_line_for_each_batch_and_each_prompt() -> None:
    lines = node_table(report()).splitlines()
    assert lines[0].split() == ["at", "once", "tokens/s", "each", "Transformers"]
    assert lines[1].split() == ["8", "124", "15.5", "61.5"]
    assert lines[4].split() == ["128", "1.25", "50%"]
    assert lines[5].split(maxsplit=1) == ["4096", "left out: the model's context is 512 tokens"]
    assert "tinyllama-1.1b, bf16, 2 nodes of 2 threads on a processor" in lines
    assert "one session decodes at 84% of what reading weights at 13.9 GB/s allows" in lines
    assert lines[-1] == "memory of the nodes' processes: 1.0 GiB + 1.0 GiB"


def test_what_has_no_bound_is_a_dash_and_rows_have_a_column_of_their_own() -> None:
    batch = report()["batches"][0] | {"one_session_tokens_per_s": 200.0}
    table = node_table(report(batches=[batch], prefill_share={}, bandwidth_share=None))
    lines = table.splitlines()
    assert lines[0].endswith("one session")
    assert lines[1].split()[-1] == "200"
    assert lines[4].split() == ["128", "1.25", "-"]


def test_sessions_at_random_times_have_a_line_where_they_were_measured() -> None:
    found = {"sessions": 16, "together_tokens_per_s": 120.4, "random_tokens_per_s": 108.0}
    lines = node_table(report(arrivals=found | {"share": 0.897})).splitlines()
    told = "16 sessions that come at random times write 108 tokens/s, 90% of 120 together"
    assert told in lines
    assert len(lines) == len(node_table(report(arrivals=None)).splitlines()) + 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "a", "--shape", "shipped"), "--model or --shape"),
        (("--model", "nowhere"), "no directory 'nowhere'"),
        (("--shape", "gpt-5"), "'gpt-5' is not one of"),
        (("--weights", "int3"), "'int3' is no kind of weights"),
        (("--batches", "0"), "'0' are no numbers"),
        (("--device", "tpu"), "'tpu' is no device"),
        (("--tokens", "600"), "do not fit this model's context: 491 do"),
        (("--arrivals", "65"), "65 is not in the range"),
        (("--nodes", "9"), "9 nodes, but the model has 8 blocks"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["bench", "chain", *arguments])
    seen = capsys.readouterr()
    assert (code, seen.out) == (2, "")
    assert seen.err.count("\n") == 1
    assert words in seen.err


def test_nonsense_ends_before_torch_is_imported() -> None:
    script = (
        "import sys\n"
        "from shardline.cli.main import run\n"
        "assert run(['bench', 'node', '--batches', '0']) == 2\n"
        "assert 'torch' not in sys.modules\n"
    )
    command = [sys.executable, "-c", script]
    subprocess.run(command, check=True, timeout=90, capture_output=True)
