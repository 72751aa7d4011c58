"""`shardline inspect`: the route, the cut, the drawing, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from transformers import AlbertConfig, BertConfig

from shardline.cli.demo import shipped_model
from shardline.cli.main import run
from tests.support.factories import MODULE, write_factories

if TYPE_CHECKING:
    from collections.abc import Callable

    Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str]) -> Ask:
    def asked(*arguments: str) -> tuple[int, str, str]:
        code = run(["inspect", *arguments])
        seen = capfd.readouterr()
        return code, seen.out, seen.err

    return asked


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A config and nothing else."""
    config: Any = BertConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, architectures=["BertForMaskedLM"],
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("models") / "little-bert"
    config.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def albert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A config of a model that calls one block again and again."""
    config: Any = AlbertConfig(
        vocab_size=96, embedding_size=16, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=64, architectures=["AlbertForMaskedLM"],
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("models") / "little-albert"
    config.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_factories(tmp_path_factory.mktemp("mine")))


def words(file: Path) -> str:
    return " ".join(ET.parse(file).getroot().itertext())  # noqa: S314  (our own file)


# --- CHAINS ---


def test_a_decoder_has_a_chain(ask: Ask) -> None:
    code, out, err = ask(str(shipped_model()), "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["route"], found["architecture"]) == ("chain", "LlamaForCausalLM")
    assert [stage["blocks"] for stage in found["stages"]] == ["0:2", "2:5", "5:8"]
    assert len(found["blocks"]) == 8
    assert [b["bytes"] for b in found["boundaries"]] == [256, 256]
    held = sum(stage["parameters"] for stage in found["stages"])
    assert held == sum(block["parameters"] for block in found["blocks"])
    assert held < found["parameters"]


def test_a_person_sees_a_row_a_stage_and_a_few_lines(ask: Ask) -> None:
    code, out, err = ask(str(shipped_model()), "--nodes", "2")
    assert (code, err) == (0, "")
    head, one, two, chain, caller, carried = out.splitlines()
    assert head.split()[:2] == ["stage", "blocks"]
    assert one.split()[:5] == ["1", "0:4", "model.layers.0", "to", "model.layers.3"]
    assert " 50% " in two
    assert chain.startswith("chain: LlamaForCausalLM, 8 blocks at model.layers, ")
    assert caller.startswith("the caller keeps ")
    assert carried.startswith("256 B a token between any two blocks")


def test_an_encoder_has_a_chain_and_keeps_no_cache(ask: Ask, bert: str) -> None:
    code, out, err = ask(bert, "--json", "--nodes", "2")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["route"], found["architecture"]) == ("chain", "BertForMaskedLM")
    assert [stage["blocks"] for stage in found["stages"]] == ["0:1", "1:2"]
    (boundary,) = found["boundaries"]
    assert [value["shape"] for value in boundary["values"]] == [[None, None, 32]]
    assert boundary["bytes"] == 4 * 32
    assert "no cache" in ask(bert, "--nodes", "2")[1]


# --- GRAPHS ---


def test_a_model_of_one_block_is_a_graph_without_its_weights(ask: Ask, albert: str) -> None:
    code, out, err = ask(albert, "--json", "--nodes", "2")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["route"], found["architecture"]) == ("graph", "AlbertModel")
    assert found["why"] == "AlbertForMaskedLM has no list of repeated blocks"
    assert sum(stage["work"] for stage in found["stages"]) == pytest.approx(1)
    assert sum(block["work"] for block in found["blocks"]) == pytest.approx(1)
    (boundary,) = found["boundaries"]
    assert boundary["bytes"] == sum(value["bytes"] for value in boundary["values"])
    hidden = [value for value in boundary["values"] if value["dtype"] == "float32"]
    assert [value["shape"] for value in hidden] == [[None, None, 32]]
    assert "input_ids.0" in found["open_sizes"]


def test_a_graph_is_drawn_with_its_boundaries(ask: Ask, albert: str, tmp_path: Path) -> None:
    page = tmp_path / "albert.svg"
    code, out, err = ask(albert, "--draw", str(page))
    assert (code, err) == (0, "")
    head, *_, graph, example, why = out.splitlines()
    assert head.split()[:2] == ["stage", "ops"]
    assert graph.startswith("graph: AlbertModel, ")
    assert "input_ids 2x32" in example
    assert why == "no chain: AlbertForMaskedLM has no list of repeated blocks"
    said = words(page)
    for word in ("little-albert", "3 stages", "% of the work", "What would cross a cut"):
        assert word in said, word


def test_a_chain_is_drawn_the_same_each_time(ask: Ask, tmp_path: Path) -> None:
    pages = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for page in pages:
        assert ask(str(shipped_model()), "--nodes", "8", "--draw", str(page))[0] == 0
    one, two = (page.read_bytes() for page in pages)
    assert one == two


# --- A PERSON'S OWN ---


def test_a_persons_module_is_cut_and_may_print(ask: Ask, file: str) -> None:
    code, out, err = ask(f"{file}:twins", "--nodes", "2", "--json")
    assert (code, err) == (0, "a person may print\n")
    found: Any = json.loads(out)
    assert (found["route"], found["architecture"], found["why"]) == ("graph", "Twins", "")
    assert found["parameters"] == 8 * 16 + 16 + 16 * 8 + 8
    assert found["per"] == "x 4x8, skip 4x8"


def test_what_cannot_be_captured_is_route_none_with_its_line(ask: Ask, file: str) -> None:
    code, out, err = ask(f"{file}:choosy", "--json")
    assert code == 2
    found = json.loads(out)
    assert (found["route"], found["blocks"], found["boundaries"]) == ("none", [], [])
    line = f"mine.py:{MODULE.splitlines().index('        if x.sum() > 0:') + 1}"
    for said in (found["why"], err):
        assert line in said
        assert "torch.where" in said
        assert "name the parts that can be captured" in said
    assert ask(f"{file}:choosy")[:2] == (2, "")


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("", "names no function: write FILE.py:FACTORY"),
        (":elsewhere", "has no function elsewhere"),
        (":nothing", "returned Tensor: it should return (module, args) or (module, args, kwargs)"),
        (":broken", f"mine.py:{len(MODULE.splitlines())}: ZeroDivisionError"),
    ],
)
def test_a_factory_that_is_none_is_one_line(ask: Ask, file: str, end: str, said: str) -> None:
    code, out, err = ask(f"{file}{end}")
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]


def test_a_file_that_is_no_python_is_named_with_its_line(ask: Ask, file: str) -> None:
    code, _, err = ask(f"{Path(file).with_name('wrong.py')}:f")
    assert code == 2
    assert "wrong.py:2: SyntaxError" in err
    assert "there is no file" in ask("nowhere.py:f")[2]


# --- REFUSALS ---


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere",), "no directory 'nowhere'"),
        ((), "Missing argument"),
        (("MODEL", "--nodes", "0"), "--nodes"),
        (("MODEL", "--draw", "page.pdf"), "ends in .svg or .png"),
        ((str(shipped_model()), "--nodes", "9"), "8 blocks cannot be cut into 9 stages"),
    ],
)
def test_what_cannot_be_inspected_is_one_line(
    ask: Ask, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = ask(*arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert said in err


def test_nonsense_ends_before_torch_is_imported() -> None:
    script = (
        "import sys\n"
        "from shardline.cli.main import run\n"
        "assert run(['inspect', 'MODEL', '--draw', 'page.pdf']) == 2\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=90, capture_output=True)
