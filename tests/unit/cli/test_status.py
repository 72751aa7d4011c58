"""`shardline status` over a swarm without a network."""

import json
from pathlib import Path

import msgspec
import pytest

from shardline.cli import status as command
from shardline.cli.main import run
from shardline.core.ids import NodeId
from shardline.model import GRAPH_TERMS
from shardline.swarm import Flow, Invite, NodeRecord, State

FIELDS = {
    "name", "id", "model", "start", "stop", "blocks", "state", "device", "dtype", "memory_bytes",
    "memory_used_bytes", "cache_tokens_free", "cache_tokens_total", "sessions", "load",
    "block_steps_per_s", "rtt_ms", "path", "via", "links_ms",
    "links",
}  # fmt: skip
FIRST, SECOND, THIRD, FOURTH = (NodeId(digit * 64) for digit in "1234")
ADA = NodeRecord(
    node=FIRST,
    name="ada",
    shardline="0.1.0",
    model="tiny",
    fingerprint="f00d",
    blocks=8,
    start=0,
    stop=3,
    state=State.READY,
    device="cpu",
    dtype="float32",
    memory_bytes=2**30,
    addresses=("192.0.2.1:7411",),
    links={SECOND: 0.5},
)
BEN = msgspec.structs.replace(
    ADA, node=SECOND, name="ben", start=3, stop=6, links={}, addresses=("b:1",)
)


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[NodeRecord]:
    """What the command finds; ben does not answer."""
    monkeypatch.setenv("SHARDLINE_HOME", str(tmp_path))
    monkeypatch.delenv("COLUMNS", raising=False)
    records: list[NodeRecord] = []

    async def look(_: Invite) -> object:
        return records, {FIRST: 1.25, SECOND: None, THIRD: 2.5, FOURTH: 2.5}, {FOURTH: None}

    monkeypatch.setattr(command, "_look", look)
    return records


def shown(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert run(["status", "--join", Invite.new().encode(), *options]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_json_is_one_object_with_a_row_a_node(
    seen: list[NodeRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    seen += [ADA, BEN]
    out = shown(capsys, "--json")
    assert out.count("\n") == 1
    report = json.loads(out)
    assert list(report) == ["nodes"]
    ada, ben = report["nodes"]
    assert set(ada) == set(ben) == FIELDS
    assert (ada["name"], ada["start"], ada["stop"], ada["rtt_ms"]) == ("ada", 0, 3, 1.25)
    assert (ada["state"], ada["links_ms"]) == ("ready", {SECOND: 0.5})
    assert ben["rtt_ms"] is None


def test_json_has_what_each_node_measured_of_its_links(
    seen: list[NodeRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    links, flows = {SECOND: 0.5, THIRD: 80.0}, (Flow(40_000, 250_000, 1, 64), Flow())
    seen.append(msgspec.structs.replace(ADA, links=links, flows=flows))
    (ada,) = json.loads(shown(capsys, "--json"))["nodes"]
    figures = {"rtt_ms": 0.5, "up_mbit_s": 40.0, "down_mbit_s": 250.0, "late_share": 1 / 64}
    assert ada["links"][SECOND] == figures | {"pings": 64}
    unknown = {"up_mbit_s": None, "down_mbit_s": None, "late_share": None}
    assert ada["links"][THIRD] == unknown | {"rtt_ms": 80.0, "pings": 0}


def test_an_empty_swarm_is_an_empty_list(
    seen: list[NodeRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    assert json.loads(shown(capsys, "--json")) == {"nodes": []}
    assert shown(capsys) == "nobody serves in this swarm yet\n"
    assert seen == []


def test_people_see_the_nodes_and_what_is_missing(
    seen: list[NodeRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    seen += [ADA, BEN]
    out = shown(capsys)
    assert "0:3 of 8" in out
    assert "1.2 ms" in out
    assert "no answer" in out
    assert "no live node holds blocks 6:8 of tiny" in out


def test_a_graphs_parts_are_called_stages(
    seen: list[NodeRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    seen.append(msgspec.structs.replace(ADA, dtype=GRAPH_TERMS))
    out = shown(capsys)
    assert "stages 0:3 of 8" in out
    assert "no live node holds stages 3:8 of tiny" in out


def test_a_path_is_direct_or_names_who_passes_on(
    seen: list[NodeRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    cleo = msgspec.structs.replace(
        ADA, node=THIRD, name="cleo", addresses=(), through="192.0.2.1:7411"
    )
    dora = msgspec.structs.replace(cleo, node=FOURTH, name="dora", through="192.0.2.9:1")
    seen += [ADA, BEN, cleo, dora]
    rows = json.loads(shown(capsys, "--json"))["nodes"]
    ways = {row["name"]: (row["path"], row["via"]) for row in rows}
    assert ways == {
        "ada": ("direct", None),
        "ben": (None, None),
        "cleo": ("relayed", "ada"),
        "dora": ("relayed", "192.0.2.9:1"),
    }
    assert "relayed via ada" in shown(capsys)


def test_a_node_that_loads_does_not_cover(
    seen: list[NodeRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    seen.append(msgspec.structs.replace(ADA, stop=8, state=State.LOADING))
    assert "no live node holds blocks 0:8" in shown(capsys)


def test_names_are_text_and_no_markup(
    seen: list[NodeRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    seen.append(msgspec.structs.replace(ADA, name="[/red]:dog:", model="[bold]x[/b]"))
    out = shown(capsys)
    assert "[/red]:dog:" in out
    assert out.count("[bold]x[/b]") == 2


def test_the_invite_is_kept_once_it_opened_the_swarm(
    seen: list[NodeRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    del seen
    shown(capsys)
    assert run(["status"]) == 0
