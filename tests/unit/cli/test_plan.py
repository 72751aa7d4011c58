"""`shardline plan`: what a person writes, what the plan then says, and what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from shardline.cli.demo import shipped_model
from shardline.cli.main import run
from shardline.cli.nodes_file import NodesFile
from shardline.cli.plan import METHODS
from shardline.cli.planning import Sizes, changed, problem_of
from shardline.core.errors import BadInput
from shardline.partition import FAMILIES, Share, evaluate
from shardline.partition import METHODS as ALL_METHODS
from shardline.partition import plan as place

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Ask = Callable[..., "Ended"]

MIB, GIB = 2**20, 2**30
SIZES = Sizes((GIB,) * 4, (GIB // 2,) * 4, (0,) * 4, 8_192)
TWO = """
[[node]]
name = "quick"
memory = "3GiB"
block_ms = 1
rtt_ms = 2

[[node]]
name = "slow"
memory = "3GiB"
block_ms = 3
rtt_ms = 2
"""
"""Both must serve; the best is three blocks on the first and one on the second."""
NODE = '[[node]]\nname = "a"\nmemory = "3GiB"\nblock_ms = 1\n'
LINK = '[[link]]\na = "a"\nb = "caller"\n'


@dataclass(frozen=True)
class Ended:
    """What a person saw."""

    code: int
    out: str
    err: str


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Plans the shipped model on the nodes of this text."""

    def asked(text: str, *options: str) -> Ended:
        file = tmp_path / "nodes.toml"
        file.write_text(text)
        code = run(["plan", str(shipped_model()), "--nodes", str(file), *options])
        seen = capsys.readouterr()
        return Ended(code, seen.out, seen.err)

    return asked


def small(text: str) -> str:
    """The same for a model of megabytes."""
    return text.replace("GiB", "MiB")


# --- THE FILE ---


def test_a_pair_takes_the_longer_round_trip_and_the_narrower_way() -> None:
    text = TWO.replace("rtt_ms = 2", "rtt_ms = 30\nup_mbit = 8\ndown_mbit = 80", 1)
    problem = problem_of(SIZES, NodesFile.parse(text))
    assert problem.delay_s[0, 1] == problem.delay_s[1, 0] == 0.015
    assert problem.delay_s[1, 2] == 0.001
    assert problem.bytes_per_s[0, 1] == 1e6
    assert problem.bytes_per_s[1, 0] == 1e7


def test_a_link_goes_before_what_its_ends_say() -> None:
    link = '[[link]]\na = "quick"\nb = "slow"\nrtt_ms = 0.5\nmbit = 8\n'
    problem = problem_of(SIZES, NodesFile.parse(TWO + link))
    assert problem.delay_s[0, 1] == problem.delay_s[1, 0] == 0.00025
    assert problem.bytes_per_s[0, 1] == problem.bytes_per_s[1, 0] == 1e6


@pytest.mark.parametrize(
    ("pace", "block_s"),
    [
        ("block_ms = 4", 0.004),
        ("bandwidth_gbs = 100", GIB / 100e9),
        ("gflops = 10", GIB / 10e9),
        ("bandwidth_gbs = 100\ngflops = 10", GIB / 10e9),
    ],
)
def test_a_blocks_time_follows_from_the_pace(pace: str, block_s: float) -> None:
    problem = problem_of(SIZES, NodesFile.parse(NODE.replace("block_ms = 1", pace)))
    assert problem.compute_s(Share(0, 0, 1))[0] == pytest.approx(block_s)


def test_a_larger_block_takes_longer() -> None:
    sizes = Sizes((GIB, 3 * GIB), (GIB // 2, 3 * GIB // 2), (0, 0), 8_192)
    problem = problem_of(sizes, NodesFile.parse(NODE.replace("3GiB", "8GiB")))
    assert [block.work_s for block in problem.blocks] == pytest.approx([0.0005, 0.0015])


def test_a_relay_that_all_depend_on_is_a_link_for_each() -> None:
    apart = TWO.replace("rtt_ms = 2", 'rtt_ms = "none"')
    ways = [("quick", "caller"), ("slow", "caller"), ("quick", "slow")]
    links = [f'[[link]]\na = "{a}"\nb = "{b}"\nrtt_ms = 4\n' for a, b in ways]
    problem = problem_of(SIZES, NodesFile.parse(apart + "".join(links)))
    assert evaluate(problem, [Share(0, 0, 3), Share(1, 3, 4)]).latency_s == pytest.approx(0.012)


REFUSED = {
    "": ("no nodes", "[[node]]"),
    "[[node": ("no TOML",),
    "[[peer]]\n" + NODE: ("the file: unknown key peer", "known are caller, node, link"),
    "node = 3": ("[[node]]",),
    "caller = 3\n" + NODE: ("[caller]",),
    NODE + "cores = 3": ("node a: unknown key cores", "memory"),
    "[caller]\nname = 'me'\n" + NODE: ("[caller]: unknown key name", "rtt_ms"),
    NODE + NODE: ("two nodes are called a",),
    NODE.replace('"a"', '"caller"'): ("'caller'", "not caller"),
    NODE.replace('"a"', '"a: b"'): ("'a: b'", "letters"),
    NODE.replace('name = "a"\n', ""): ("None", "letters"),
    NODE.replace('memory = "3GiB"\n', ""): ("node a: memory missing", "8GiB"),
    NODE.replace('"3GiB"', "-3"): ("node a: memory: '-3' is no size", "8GiB"),
    NODE.replace('"3GiB"', '"-3GiB"'): ("node a: memory: '-3GiB' is no size", "8GiB"),
    NODE.replace('"3GiB"', "true"): ("node a: memory", "8GiB"),
    NODE.replace("block_ms = 1\n", ""): ("node a: give its pace", "bandwidth_gbs"),
    NODE + "gflops = 1": ("node a: give its pace: block_ms, or else",),
    NODE.replace("= 1", "= 0"): ("node a: block_ms is 0", "from 1e-06"),
    NODE.replace("= 1", "= nan"): ("node a: block_ms is nan",),
    NODE.replace("= 1", "= true"): ("node a: block_ms is True",),
    NODE.replace("= 1", "= 1" + "0" * 400): ("node a: block_ms is 1000", "to 1e+12"),
    NODE + "rtt_ms = -1": ("node a: rtt_ms is -1", "from 0"),
    NODE + "rtt_ms = 'far'": ("node a: rtt_ms is 'far'",),
    NODE + "up_mbit = 0": ("node a: up_mbit is 0",),
    NODE + LINK: ("link a-caller: rtt_ms missing", "'none'"),
    NODE + LINK + "rtt_ms = 1\nloss = 1": ("link a-caller: unknown key loss",),
    NODE + LINK + "rtt_ms = 1\nmbit = -2": ("link a-caller: mbit is -2",),
    NODE + LINK.replace("caller", "z") + "rtt_ms = 1": ("link a-z: there is no z",),
    NODE + LINK.replace("caller", "a") + "rtt_ms = 1": ("link a-a", "two"),
    NODE + '[[link]]\nb = "a"\nrtt_ms = 1': ("there is no None",),
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: " ".join(text.split())[:60])
def test_a_file_that_cannot_be_is_refused_in_one_line(ask: Ask, text: str) -> None:
    ended = ask(text)
    assert ended.code == 2, ended.err
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    assert all(word in ended.err for word in REFUSED[text]), ended.err


def test_a_file_that_is_not_there_or_no_text_is_named(
    ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(NODE, "--nodes", str(tmp_path / "other.toml")).err.endswith(
        "other.toml cannot be read: No such file or directory\n"
    )
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    assert run(["plan", "MODEL", "--nodes", str(tmp_path / "bytes.toml")]) == 2
    assert "no text in UTF-8" in capsys.readouterr().err


def test_more_nodes_than_can_be_planned_are_refused() -> None:
    text = "".join(NODE.replace('"a"', f'"n{place}"') for place in range(2_049))
    with pytest.raises(BadInput, match=r"2049 nodes.*2048 at most"):
        NodesFile.parse(text)


def test_nonsense_ends_before_torch_is_imported(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from shardline.cli.main import run\n"
        "assert run(['plan', 'MODEL', '--nodes', sys.argv[1]]) == 2\n"
        "assert run(['plan', 'MODEL', '--nodes', sys.argv[2], '--what-if', 'more']) == 2\n"
        "assert 'torch' not in sys.modules\n"
    )
    bad, good = tmp_path / "bad.toml", tmp_path / "good.toml"
    bad.write_text("[[peer]]")
    good.write_text(NODE)
    command = [sys.executable, "-c", script, str(bad), str(good)]
    subprocess.run(command, check=True, timeout=90, capture_output=True)


# --- WHAT CANNOT BE PLANNED ---


def test_a_cluster_that_nobody_reaches_is_named_with_the_link_it_lacks(ask: Ask) -> None:
    apart = NODE.replace('"a"', '"far"') + "rtt_ms = 'none'\n"
    other = apart.replace('"far"', '"away"')
    between = '[[link]]\na = "far"\nb = "away"\nrtt_ms = 1\n'
    ended = ask(small(TWO + apart + other + between))
    assert ended.code == 2
    assert ended.err == (
        "shardline: no link leads from the caller to far, away: give an rtt_ms, "
        'or [[link]] a = "far", b = "caller", rtt_ms = 20\n'
    )


def test_a_model_that_does_not_fit_says_how_much_more_would_do(ask: Ask) -> None:
    ended = ask(NODE.replace("3GiB", "2700KiB"), "--tokens", "1")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "the model has 8 blocks" in ended.err
    assert "hold 6: add nodes with 2 x " in ended.err


def test_no_chain_over_the_links_there_are_is_said(ask: Ask) -> None:
    apart = TWO.replace("rtt_ms = 2", 'rtt_ms = "none"')
    ways = '[[link]]\na = "quick"\nb = "caller"\nrtt_ms = 4\n'
    ended = ask(small(apart + ways + ways.replace("caller", "slow")), "--tokens", "512")
    assert ended.code == 2
    assert "no chain of reachable nodes can hold the model" in ended.err


# --- THE PLAN ---


def test_the_best_plan_of_two_nodes_is_found() -> None:
    found = place(problem_of(SIZES, NodesFile.parse(TWO)))
    blocks = {share.node: share.stop - share.start for share in found.assignment}
    assert blocks == {"quick": 3, "slow": 1}
    assert found.bottleneck_ms == pytest.approx(3.0)
    assert found.latency_ms == pytest.approx(3.0 + 3.0 + 3 * 1.0)
    assert found.gap == 0.0


def test_json_is_one_object_whose_numbers_follow_from_its_own(ask: Ask) -> None:
    ended = ask(small(TWO), "--json", "--tokens", "512")
    assert ended.code == 0, ended.err
    assert ended.err == ""
    found: dict[str, Any] = json.loads(ended.out)
    wanted = {"method", "assignment", "stage_ms", "bottleneck_ms", "latency_ms"}
    wanted |= {"lower_bound_ms", "gap", "reasons", "seconds"}
    assert wanted <= set(found)
    assert found["method"] == "auto"
    assert [set(share) for share in found["assignment"]] == [{"node", "start", "stop"}] * 2
    ends = [(share["start"], share["stop"]) for share in found["assignment"]]
    assert [0, *(stop for _, stop in ends)] == [*(start for start, _ in ends), 8]
    assert len(found["stage_ms"]) == len(ends)
    assert found["bottleneck_ms"] == max(found["stage_ms"])
    assert found["latency_ms"] >= found["bottleneck_ms"] >= found["lower_bound_ms"]
    bound_ms = found["lower_bound_ms"]
    assert found["gap"] == pytest.approx((found["bottleneck_ms"] - bound_ms) / bound_ms)
    assert len(found["reasons"]) == 2
    assert "what_if" not in found


def test_a_person_sees_a_row_a_node_and_two_lines(ask: Ask) -> None:
    idle = '[[node]]\nname = "tiny"\nmemory = "1KiB"\nblock_ms = 1\n'
    ended = ask(small(TWO) + idle, "--tokens", "512")
    assert ended.code == 0, ended.err
    head, *rows, rates, certainty = ended.out.splitlines()
    assert head.split() == ["node", "blocks", "stage", "ms", "why"]
    assert {row.split()[0] for row in rows} == {"quick", "slow", "tiny"}
    assert rows[-1].split()[:3] == ["tiny", "-", "-"]
    assert rows[-1].strip().endswith("1.0 KiB hold no block")
    assert "for one stream" in rates
    assert "for many" in rates
    assert certainty.startswith("proven the best")


def test_a_rule_without_a_proof_states_its_gap(ask: Ask) -> None:
    """All fits on the quick one, and by memory alone the slow one gets a half."""
    alike = small(TWO).replace('"3MiB"', '"30MiB"').replace("block_ms = 3", "block_ms = 30")
    ended = ask(alike, "--tokens", "512", "--method", "memory")
    assert ended.code == 0, ended.err
    stated = re.search(r"this one is within ([\d.]+)% of the best", ended.out.splitlines()[-1])
    assert stated, ended.out
    assert float(stated[1]) > 0


def test_more_cache_leaves_room_for_fewer_blocks(ask: Ask) -> None:
    assert ask(small(TWO), "--tokens", "512").code == 0
    ended = ask(small(TWO), "--tokens", "1000000")
    assert ended.code == 2
    assert "add nodes with" in ended.err


def test_the_methods_are_those_of_the_partition_room() -> None:
    assert tuple(ALL_METHODS) == METHODS


def test_help_shows_how_a_node_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--help"]) == 0
    out = capsys.readouterr().out
    assert 'memory = "8GiB"' in out
    assert max(map(len, out.splitlines())) <= 100


# --- REPLICAS ---

THREE = small(TWO + NODE.replace('"a"', '"twin"')).replace('"3MiB"', '"6MiB"')
"""Each has room for all eight blocks, so each can serve whole sessions alone."""


def test_replicas_overlap_in_json_and_carry_more_than_the_chain(ask: Ask) -> None:
    ended = ask(THREE, "--json", "--tokens", "512", "--replicas")
    assert ended.code == 0, ended.err
    found: dict[str, Any] = json.loads(ended.out)
    alone: dict[str, Any] = json.loads(ask(THREE, "--json", "--tokens", "512").out)
    assert set(alone) <= set(found)
    spans = [(share["start"], share["stop"]) for share in found["assignment"]]
    assert sum(stop - start for start, stop in spans) > 8
    assert {block for start, stop in spans for block in range(start, stop)} == set(range(8))
    assert found["bottleneck_ms"] == found["value_ms"] == pytest.approx(1e3 / found["tokens_per_s"])
    assert found["bottleneck_ms"] < alone["bottleneck_ms"]
    assert sum(way["tokens_per_s"] for way in found["routes"]) == pytest.approx(
        found["tokens_per_s"]
    )


def test_a_person_sees_who_shares_what_and_what_it_adds(ask: Ask) -> None:
    ended = ask(THREE, "--tokens", "512", "--replicas")
    assert ended.code == 0, ended.err
    head, *rows, rates, certainty = ended.out.splitlines()
    assert head.split() == ["node", "blocks", "ms", "a", "token", "busy", "why"]
    assert len(rows) == 3
    assert any("shares them with" in row and "tokens/s" in row for row in rows)
    assert "over the best chain alone" in rates
    assert "best" in certainty


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--objective", "latency"), "--objective throughput"),
        (("--draw", "plan.svg"), "leave out --replicas"),
    ],
)
def test_replicas_are_for_many_streams(ask: Ask, options: tuple[str, ...], words: str) -> None:
    ended = ask(THREE, "--replicas", *options)
    assert ended.code == 2
    assert words in ended.err
    assert ended.err.count("\n") == 1


# --- WHAT IF ---


def test_one_more_node_adds_what_its_plan_has_more(ask: Ask) -> None:
    add = "add=new:memory=12MiB,block_ms=0.5,rtt_ms=5"
    ended = ask(small(TWO), "--json", "--tokens", "512", "--what-if", add)
    found: dict[str, Any] = json.loads(ended.out)
    (change,) = found["what_if"]
    assert change["change"] == add
    gain = 1e3 / change["plan"]["value_ms"] - 1e3 / found["value_ms"]
    assert change["tokens_per_s"] == pytest.approx(gain)
    assert gain > 0
    said = ask(small(TWO), "--tokens", "512", "--what-if", add).out.splitlines()[-1]
    assert said.startswith(f"{add} would add {gain:.1f} tokens/s")


def test_a_node_that_is_needed_leaves_no_plan(ask: Ask) -> None:
    ended = ask(small(TWO), "--tokens", "512", "--what-if", "remove=quick")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1].startswith("remove=quick would leave no plan: the model")


def test_a_node_and_its_links_go_together() -> None:
    link = '[[link]]\na = "quick"\nb = "slow"\nrtt_ms = 1\n'
    left = changed(NodesFile.parse(TWO + link), "remove=slow")
    assert [machine.name for machine in left.machines] == ["quick"]
    assert left.links == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("more", ("add=NAME", "remove=NAME", "'more'")),
        ("add=new", ("add=NAME:memory=12GiB",)),
        ("add=new:memory", ("'memory' is no key=value",)),
        ("add=new:memory=1GiB,memory=2GiB", ("there twice",)),
        ("add=new:memory=-1GiB,block_ms=1", ("node new", "no size")),
        ("add=new:memory=1GiB,block_ms=inf", ("node new: block_ms is inf",)),
        ("add=new:memory=1GiB,name=x", ("'name=x'", "there twice")),
        ("add=slow:memory=1GiB,block_ms=1", ("already",)),
        ("remove=other", ("no such node", "quick, slow")),
    ],
)
def test_a_change_that_cannot_be_is_refused(text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(BadInput) as refused:
        changed(NodesFile.parse(TWO), text)
    assert all(word in str(refused.value) for word in words), str(refused.value)


def test_the_last_node_cannot_be_removed() -> None:
    with pytest.raises(BadInput, match="the only node"):
        changed(NodesFile.parse(NODE), "remove=a")


# --- BENCH ---


def test_bench_plan_has_a_row_for_each_method_and_family(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["bench", "plan", "--nodes", "4", "--blocks", "8", "--seed", "3", "--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["rows"]
    methods = set(METHODS) - {"search"}
    assert {(row["family"], row["method"]) for row in rows} == {
        (family, method) for family in FAMILIES for method in methods
    }
    for row in rows:
        assert {"family", "method", "gap", "seconds"} <= set(row)
        assert row["gap"] is None or row["gap"] >= 0
        assert row["method"] not in {"auto", "exact"} or row["gap"] == pytest.approx(0, abs=1e-9)


# --- SCHEMES ---


def test_a_person_sees_the_schemes_plan_and_then_the_refined_one(ask: Ask) -> None:
    ended = ask(small(TWO), "--tokens", "512", "--method", "scheme")
    assert ended.code == 0, ended.err
    first, *more = ended.out.split("node")[1:]
    assert "(scheme, " in first
    assert more or "no better plan was found" in first
    assert "proven the best" in ended.out


def test_a_program_gets_the_schemes_plan_alone(ask: Ask) -> None:
    ended = ask(small(TWO), "--tokens", "512", "--method", "scheme", "--json")
    assert json.loads(ended.out)["method"] == "scheme"


def test_schemes_are_read_from_a_library_that_a_person_made(ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "schemes.json"
    made = ["--nodes-count", "4", "--blocks-count", "6", "--family", "homes", "--out", str(file)]
    assert run(["plan", "precompute", *made]) == 0
    command = ("--tokens", "512", "--method", "scheme", "--json", "--library")
    ended = ask(small(TWO), *command, str(file))
    assert ended.code == 0, ended.err
    file.write_text(file.read_text().replace("parts", "party"))
    ended = ask(small(TWO), *command, str(file))
    assert ended.code == 2
    assert f"{file}: no library of schemes: " in ended.err
    assert ended.err.count("\n") == 1
    assert "cannot be read" in ask(TWO, *command, str(tmp_path / "other.json")).err


def test_a_library_wants_the_method_that_reads_it(ask: Ask) -> None:
    assert "--method scheme" in ask(TWO, "--library", "schemes.json").err
