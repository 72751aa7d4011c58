"""`shardline profile`: what a person sees, what is kept, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from shardline.cli.demo import shipped_model
from shardline.cli.main import run
from shardline.cli.nodes_file import NodesFile
from shardline.cli.planning import Sizes, problem_of
from shardline.model import profiling
from tests.parity.zoo import named

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Ask = Callable[..., tuple[int, str, str]]

NODE = '[[node]]\nname = "a"\nmemory = "1GiB"\nblock_ms = 2\n'


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Runs a command with a home of its own, and little time to measure."""
    monkeypatch.setenv("SHARDLINE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(profiling, "BUDGET_S", 0.0)

    def asked(*arguments: str) -> tuple[int, str, str]:
        code = run(list(arguments))
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    return asked


def mixed(directory: Path) -> str:
    """A model without weights, whose second block is no mixture of experts."""
    config: Any = named("qwen2-moe").make_config()
    config.save_pretrained(directory)
    return str(directory)


def test_json_is_one_object_and_the_second_time_it_is_kept(ask: Ask, tmp_path: Path) -> None:
    code, out, err = ask("profile", str(shipped_model()), "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    wanted = {"setup", "kinds", "output_bytes_per_token", "kept", "decode_ms", "block_ms"}
    assert wanted <= set(found)
    (kind,) = found["kinds"]
    assert kind["blocks"] == list(range(8))
    assert found["decode_ms"] == pytest.approx(8 * found["block_ms"])
    assert found["kept"] is False

    again = json.loads(ask("profile", str(shipped_model()), "--json")[1])
    assert again == found | {"kept": True}
    anew = json.loads(ask("profile", str(shipped_model()), "--json", "--again")[1])
    assert anew["kept"] is False
    assert anew["measured_at_s"] > found["measured_at_s"]


def test_a_spoilt_file_is_measured_anew(ask: Ask, tmp_path: Path) -> None:
    ask("profile", str(shipped_model()))
    (file,) = (tmp_path / "home" / "profiles").iterdir()
    file.write_bytes(b"{}")
    code, out, err = ask("profile", str(shipped_model()), "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["kept"] is False
    assert json.loads(file.read_bytes())["model"] == "fable-2m"


def test_a_person_sees_a_row_a_kind_and_what_the_whole_takes(ask: Ask, tmp_path: Path) -> None:
    code, out, err = ask("profile", mixed(tmp_path / "model"), "--dtype", "float32")
    assert (code, err) == (0, "")
    head, experts, plain, whole, block = out.splitlines()
    assert head.split()[:2] == ["blocks", "kind"]
    assert experts.startswith("0:1 2:4  Qwen2MoeDecoderLayer")
    assert plain.startswith("1:2      Qwen2MoeDecoderLayer")
    assert whole.startswith("all 4 blocks of model, float32 on ")
    assert block.startswith("in a nodes file: block_ms = ")
    again = ask("profile", str(tmp_path / "model"), "--dtype", "float32")[1]
    assert again.startswith(out)
    assert again.endswith("and kept: --again measures anew\n")


def test_a_plan_weighs_blocks_as_they_were_measured(ask: Ask, tmp_path: Path) -> None:
    model, nodes = mixed(tmp_path / "model"), tmp_path / "nodes.toml"
    nodes.write_text(NODE)
    before = json.loads(ask("plan", model, "--nodes", str(nodes), "--json")[1])
    assert before["work"] == "weights"
    ask("profile", model)
    after = json.loads(ask("plan", model, "--nodes", str(nodes), "--json")[1])
    assert after["work"] == "measured"
    assert after["bottleneck_ms"] == pytest.approx(before["bottleneck_ms"])  # means are the same
    assert "`shardline profile`" in ask("plan", model, "--nodes", str(nodes))[1]


def test_what_a_block_took_is_its_work() -> None:
    sizes = Sizes((100, 100), (50, 50), (0, 0), 64, block_ms=(1.0, 3.0))
    problem = problem_of(sizes, NodesFile.parse(NODE))
    assert [block.work_s for block in problem.blocks] == pytest.approx([0.001, 0.003])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "no directory 'nowhere'"),
        ((), "Missing argument 'MODEL'"),
        (("MODEL", "--device", "tpu"), "'tpu' is no device"),
        (("MODEL", "--device", "cuda:77"), "cannot be used here"),
        (("MODEL", "--dtype", "int3"), "'int3'"),
        (("MODEL", "--threads", "0"), "--threads"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    ask: Ask, arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = ask("profile", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert words in err


def test_nonsense_ends_before_torch_is_imported() -> None:
    script = (
        "import sys\n"
        "from shardline.cli.main import run\n"
        "assert run(['profile', 'MODEL', '--device', 'tpu']) == 2\n"
        "assert 'torch' not in sys.modules\n"
    )
    command = [sys.executable, "-c", script]
    subprocess.run(command, check=True, timeout=90, capture_output=True)
