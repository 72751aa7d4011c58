"""A swarm as a plan sees it: what nodes said becomes machines and links, and guesses say so."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from shardline.cli import live as command
from shardline.cli.demo import shipped_model
from shardline.cli.live import BLOCK_UNKNOWN_MS, Live, Standing, shared, standing, survey
from shardline.cli.main import run
from shardline.cli.planning import Sizes, changed, problem_of
from shardline.partition import plan as place
from shardline.swarm import Flow, Invite, NodeRecord
from tests.unit.swarm.making import NOW_S, node_id, record

if TYPE_CHECKING:
    from pathlib import Path

MIB = 2**20
SIZES = Sizes((MIB,) * 8, (MIB // 2,) * 8, (0,) * 8, 8_192)
PRINT = "f00d"
ADA = record(
    1,
    0,
    6,
    name="ada",
    memory_bytes=8 * MIB,
    block_steps_per_s=250.0,
    links={node_id(2): 10.0, node_id(9): 1.0, node_id(1): 1.0},
    flows=(Flow(40_000, 8_000, 0, 9), Flow(), Flow()),
)
BEN = record(
    2, 6, 8, name="ben", memory_bytes=8 * MIB, block_steps_per_s=1_000.0, links={node_id(1): 10.0}
)
BOTH = Live((ADA, BEN), {ADA.node: (4.0, Flow(16_000, 80_000))}, NOW_S)


def bare(*records: NodeRecord) -> Live:
    """Nobody has measured anything, and nobody answers."""
    return Live(records, {}, NOW_S)


def test_the_problem_has_what_was_measured_in_its_own_direction() -> None:
    seen = survey(BOTH, PRINT)
    problem = problem_of(SIZES, seen.file)
    assert [node.name for node in problem.nodes] == ["ada", "ben"]
    assert [node.memory_bytes for node in problem.nodes] == [8 * MIB, 8 * MIB]
    times_s = [block.work_s / node.speed for node in problem.nodes for block in problem.blocks[:1]]
    assert times_s == pytest.approx([0.004, 0.001])
    assert problem.delay_s[0, 1] == problem.delay_s[1, 0] == pytest.approx(0.005)
    assert problem.delay_s[2, 0] == pytest.approx(0.002)
    rates = problem.bytes_per_s * 8 / 1e6
    assert [rates[0, 1], rates[1, 0]] == pytest.approx([40.0, 8.0])
    assert [rates[2, 0], rates[0, 2]] == pytest.approx([16.0, 80.0])
    assert problem.delay_s[2, 1] > 0, "what nobody measured is estimated"
    assert rates[2, 1] > 0
    assert (seen.speeds, seen.round_trips, seen.rates) == (2, (2, 3), (4, 6))
    assert "2 of 2 speeds, 2 of 3 round trips, 4 of 6 rates" in seen.sentence()


def test_both_ends_of_a_link_are_heard() -> None:
    theirs = record(2, 6, 8, links={node_id(1): 40.0})
    problem = problem_of(SIZES, survey(bare(ADA, theirs), PRINT).file)
    assert problem.delay_s[0, 1] == pytest.approx(0.010), "the mean of 10 and 40 ms, in logarithms"


def test_a_swarm_that_has_measured_nothing_says_so_in_one_line() -> None:
    seen = survey(bare(record(1), record(2)), PRINT)
    assert seen.sentence().startswith("nothing is measured in this swarm yet")
    assert "\n" not in seen.sentence()
    assert {machine.block_ms for machine in seen.file.machines} == {BLOCK_UNKNOWN_MS}
    place(problem_of(SIZES, seen.file))


def test_a_speed_on_another_model_is_none_on_this_one() -> None:
    other = record(2, fingerprint="beef", block_steps_per_s=9.0, dtype="bfloat16")
    seen = survey(bare(ADA, other), PRINT)
    assert seen.speeds == 1
    assert [machine.block_ms for machine in seen.file.machines] == [4.0, 4.0], "a middling one"
    assert seen.dtype == "float32"


def test_names_are_made_plain_and_told_apart() -> None:
    twice = [record(number, name="ada") for number in (1, 2)]
    odd = [record(3, name="my: node"), record(4, name="caller"), record(5, name="ben")]
    names = list(survey(bare(*twice, *odd), PRINT).names.values())
    assert names == ["ada", "ada-2", "my-node", "caller-2", "ben"]


def test_what_if_goes_over_a_live_swarm_too() -> None:
    file = survey(BOTH, PRINT).file
    more = changed(file, "add=new:memory=1GiB,block_ms=0.1,rtt_ms=6,up_mbit=10")
    problem = problem_of(SIZES, more)
    assert problem.delay_s[2, 0] == problem.delay_s[2, 3] == 0.003
    assert problem.bytes_per_s[2, 0] == 10e6 / 8
    assert [machine.name for machine in changed(file, "remove=ada").machines] == ["ben"]


# --- WHAT THE SWARM DOES NOW ---


def now_of(live: Live, objective: str = "throughput", dtype: str = "float32") -> Standing:
    seen = survey(live, PRINT)
    return standing(seen, problem_of(SIZES, seen.file), dtype, objective)


def test_what_it_does_now_is_judged_by_the_plans_own_numbers() -> None:
    seen = survey(BOTH, PRINT)
    best = place(problem_of(SIZES, seen.file))
    now = now_of(BOTH)
    assert now.assignment == (("ada", 0, 6), ("ben", 6, 8))
    assert now.bottleneck_ms == now.value_ms == max(now.stage_ms) >= 24.0
    assert now.value_ms >= best.value_ms, "the best plan is no worse"
    told = now.to_json(best)
    assert told["ratio"] == pytest.approx(now.value_ms / best.value_ms)
    assert told["now"]["assignment"][1] == {"node": "ben", "start": 6, "stop": 8}
    assert (
        f"{1e3 / now.value_ms:.1f} tokens/s for many streams over ada 0:6, ben 6:8"
        in (now.sentences(best)[0])
    )
    assert now_of(BOTH, "latency").value_ms == now.latency_ms


def test_a_swarm_that_shares_blocks_is_worth_more_than_its_best_chain() -> None:
    twice = bare(*(record(at, 0, 8, block_steps_per_s=100.0) for at in (1, 2)))
    seen, chain = survey(twice, PRINT), now_of(twice)
    now = shared(chain, problem_of(SIZES, seen.file), "float32")
    assert now.value_ms == pytest.approx(chain.value_ms / 2, rel=0.01)
    assert [span[1:] for span in now.assignment] == [(0, 8), (0, 8)]
    assert now.latency_ms == chain.latency_ms
    lost = now_of(bare(record(1, 0, 6)))
    assert shared(lost, problem_of(SIZES, seen.file), "float32") == lost


def test_nodes_that_hold_more_than_the_plan_would_let_them_are_judged_all_the_same() -> None:
    small = record(1, 0, 8, memory_bytes=MIB, block_steps_per_s=100.0)
    assert now_of(bare(small)).stage_ms[0] >= 80.0


def test_a_model_that_is_not_covered_now_is_said_with_its_gap() -> None:
    best = place(problem_of(SIZES, survey(BOTH, PRINT).file))
    for live, dtype in ((bare(ADA), "float32"), (BOTH, "bfloat16")):
        now = now_of(live, dtype=dtype)
        assert "no live node holds blocks" in now.sentences(best)[0]
        assert now.to_json(best)["now"] is None


# --- THE COMMAND ---


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDLINE_HOME", str(tmp_path))
    monkeypatch.delenv("SHARDLINE_INVITE", raising=False)


def ended(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    code = run(["plan", str(shipped_model()), *options])
    seen = capsys.readouterr()
    return code, seen.out, seen.err


@pytest.mark.usefixtures("home")
def test_a_file_and_a_swarm_exclude_one_another(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    invite = Invite.new().encode()
    code, out, err = ended(capsys, "--nodes", "missing.toml", "--join", invite)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--nodes and --join exclude one another" in err
    monkeypatch.setenv("SHARDLINE_INVITE", invite)
    assert "missing.toml cannot be read" in ended(capsys, "--nodes", "missing.toml")[2]


@pytest.mark.usefixtures("home")
def test_neither_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ended(capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--join INVITE" in err
    assert "--nodes FILE" in err


@pytest.mark.usefixtures("home")
def test_a_swarm_is_planned_as_a_file_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def visit(_: Invite) -> Live:
        return Live((ADA, BEN), {}, NOW_S)

    monkeypatch.setattr(command, "visit", visit)
    options = ("--join", Invite.new().encode(), "--tokens", "512")
    code, out, err = ended(capsys, *options, "--json", "--what-if", "remove=ada")
    assert (code, err) == (0, "")
    found = json.loads(out)
    wanted = {"method", "assignment", "stage_ms", "bottleneck_ms", "latency_ms"}
    wanted |= {"lower_bound_ms", "gap", "reasons", "seconds", "what_if", "swarm"}
    assert wanted <= set(found)
    swarm = found["swarm"]
    assert swarm["nodes"] == {"ada": ADA.node, "ben": BEN.node}
    assert (swarm["speeds_measured"], swarm["now"], swarm["ratio"]) == (0, None, None)
    assert "of this model: the nodes here serve tiny-stories" in swarm["why_not"]
    table = ended(capsys, *options)[1].splitlines()
    assert table[-2].startswith("now: no live node")
    assert table[-1].startswith(("measured: ", "nothing is measured"))
