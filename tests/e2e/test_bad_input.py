"""Whatever a person gives wrong: exit code 2, one line that says what to do, nothing lost."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
import torch
from anyio.from_thread import start_blocking_portal
from transformers import AlbertConfig

from shardline.cli.options import node_identity
from shardline.client import joined
from shardline.core.clock import SystemClock
from shardline.core.ids import PROTOCOL
from shardline.core.spans import Span
from shardline.swarm import (
    Identity,
    Invite,
    InviteStore,
    NodeRecord,
    State,
    ZenohDirectory,
    issue_tls,
    membership,
    renew,
)
from shardline.wire import Switchboard, ZenohSettings, ZenohTransport, open_zenoh
from tests.e2e.conftest import COMMAND_S, SPANS, Ended
from tests.parity.zoo import make, named
from tests.support.swarms import nodes_here

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator
    from pathlib import Path

    from shardline.client import Swarm

    Command = Callable[..., Ended]

ANYWHERE = ("--listen", "127.0.0.1:0")
FEW_S = 15.0
"""A few seconds, on a machine that is busy with other things."""


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny, tmp_path / "model")


def contents(directory: Path) -> dict[str, bytes]:
    files = (file for file in directory.rglob("*") if file.is_file())
    return {str(file.relative_to(directory)): file.read_bytes() for file in files}


def invite_of(swarm: Swarm) -> str:
    return swarm.invite.encode()


def writes(swarm: Swarm, model: Path) -> list[int]:
    ids = torch.tensor([[5, 9, 2, 7]])
    return swarm.model_now(str(model)).generate(ids, max_new_tokens=6, do_sample=False)[0].tolist()


# --- MODEL ---


def test_no_such_model_is_named(shardline: Command) -> None:
    shardline("serve", "/no/such/model", *ANYWHERE).one_line(2, "'/no/such/model'")


def test_a_hub_id_that_cannot_be_had_is_named(shardline_process: Command) -> None:
    ended = shardline_process("serve", "nobody/nothing-at-all", *ANYWHERE)
    ended.one_line(2, "'nobody/nothing-at-all'", "hub")


def test_a_directory_without_a_model_is_named(shardline: Command, tmp_path: Path) -> None:
    shardline("serve", tmp_path, *ANYWHERE).one_line(2, str(tmp_path), "config.json")


def test_a_file_in_place_of_a_model_is_named(shardline: Command, tiny: Path) -> None:
    shardline("serve", tiny / "config.json", *ANYWHERE).one_line(2, "give the directory")


def test_a_truncated_file_is_named_and_left_as_it_is(
    shardline_process: Command, copy: Path
) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    before = contents(copy)
    ended = shardline_process("serve", copy, *ANYWHERE)
    ended.one_line(2, str(weights), "truncated, the last 100 bytes are missing")
    assert contents(copy) == before


def rewrite_header(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    fields: dict[str, Any] = json.loads(data[8 : 8 + length])
    first = min(name for name in fields if name != "__metadata__")
    change(fields[first])
    header = json.dumps(fields).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


HEADERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no offsets": lambda field: field.pop("data_offsets"),
    "offsets that are text": lambda field: field.update(data_offsets=["a", "b"]),
    "one offset": lambda field: field.update(data_offsets=[0]),
    "offsets before the data": lambda field: field.update(data_offsets=[-200_000, -100_000]),
    "offsets that are too near": lambda field: field.update(data_offsets=[0, 4]),
    "no shape": lambda field: field.pop("shape"),
    "a type nobody knows": lambda field: field.update(dtype="F31"),
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_header_that_says_nonsense_is_named(shardline: Command, copy: Path, what: str) -> None:
    rewrite_header(copy / "model.safetensors", HEADERS[what])
    before = contents(copy)
    ended = shardline("serve", copy, "--blocks", "0:4", *ANYWHERE)
    Ended(ended.code, "", ended.err).one_line(2, "model.safetensors")
    assert contents(copy) == before


def test_a_corrupt_header_is_named(shardline: Command, copy: Path) -> None:
    weights = copy / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:8] + b"?" * 200 + data[208:])
    shardline("serve", copy, *ANYWHERE).one_line(2, str(weights), "header is damaged")


def test_a_missing_shard_is_named(shardline: Command, tmp_path: Path) -> None:
    make(named("llama"), tmp_path, shard_size="100KB")
    missing = min(tmp_path.glob("*-of-*.safetensors"))
    missing.unlink()
    ended = shardline("serve", tmp_path, *ANYWHERE)
    ended.one_line(2, str(missing), "the file is missing")


def test_a_damaged_model_is_named_to_the_caller_too(
    shardline: Command, swarm: Swarm, copy: Path
) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    ended = shardline("generate", copy, "--join", invite_of(swarm), "--prompt", "x")
    ended.one_line(2, str(weights), "truncated")


def test_a_model_without_a_chain_says_which_route_would_serve(
    shardline: Command, tmp_path: Path
) -> None:
    one_block_for_all_layers = AlbertConfig(
        vocab_size=96, embedding_size=16, hidden_size=32, num_attention_heads=2
    )
    cast("Any", one_block_for_all_layers).save_pretrained(tmp_path)
    shardline("serve", tmp_path, *ANYWHERE).one_line(2, "graph route")


# --- BLOCKS, MEMORY, DEVICE ---


@pytest.mark.parametrize("blocks", ["0:9", "3:3", "3:2", "4:5"])
def test_blocks_out_of_range_are_told_the_range(
    shardline: Command, tiny: Path, blocks: str
) -> None:
    ended = shardline("serve", tiny, "--blocks", blocks, *ANYWHERE)
    ended.one_line(2, blocks, "0:4")


@pytest.mark.parametrize("blocks", ["x", "", "1", ":", "-1:2", "1:2:3", "1.5:2", "9" * 5000 + ":1"])
def test_blocks_that_are_nonsense_are_told_how_to_write_them(
    shardline: Command, tiny: Path, blocks: str
) -> None:
    shardline("serve", tiny, "--blocks", blocks, *ANYWHERE).one_line(2, "A:B or auto")


def test_too_little_memory_says_how_many_blocks_fit(shardline: Command, tiny: Path) -> None:
    wants = ("--dtype", "float32", "--blocks", "0:4", *ANYWHERE)
    shardline("serve", tiny, "--memory", "700KiB", *wants).one_line(2, "of 4 blocks fit", "700.0")
    shardline("serve", tiny, "--memory", "1KiB", *wants).one_line(2, "0 of 4 blocks fit")


def test_memory_for_not_one_block_says_so(shardline: Command, tiny: Path) -> None:
    ended = shardline("serve", tiny, "--memory", "1KiB", *ANYWHERE)
    ended.one_line(2, "not one block fits into 1.0 KiB", "--memory")


@pytest.mark.parametrize("memory", ["lots", "", "0", "-1GiB", "8 XiB", "GiB", "9" * 5000])
def test_memory_that_is_no_size_is_told_how_to_write_it(
    shardline: Command, tiny: Path, memory: str
) -> None:
    shardline("serve", tiny, "--memory", memory, *ANYWHERE).one_line(2, "8GiB")


def test_more_memory_than_the_machine_has_is_refused(shardline: Command, tiny: Path) -> None:
    ended = shardline("serve", tiny, "--memory", "9000000TiB", *ANYWHERE)
    ended.one_line(2, "9000000.0 TiB", "it has")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is here")
def test_a_device_that_is_not_here_is_named(shardline: Command, tiny: Path) -> None:
    ended = shardline("serve", tiny, "--device", "cuda:0", *ANYWHERE)
    ended.one_line(2, "'cuda:0' cannot be used here")


@pytest.mark.parametrize("device", ["meta", "banana", "", "cuda:-1", "mkldnn"])
def test_a_device_that_is_none_is_told_what_is_one(
    shardline: Command, tiny: Path, device: str
) -> None:
    ended = shardline("serve", tiny, "--device", device, *ANYWHERE)
    ended.one_line(2, repr(device), "cuda:0")


# --- OPTIONS ---


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--dtype", "int3"), ("int3", "bfloat16")),
        (("--bogus",), ("--bogus",)),
        (("--threads", "0"), ("--threads",)),
        (("--threads", "many"), ("--threads", "many")),
        (("--threads", "9999999"), ("--threads",)),
        (("surplus",), ("surplus",)),
        (("--name", "a/b"), ("a/b", "slashes")),
        (("--name", ""), ("no name",)),
        (("--name", "n" * 65), ("64 printable characters",)),
        (("--name", "\u00e9\x07"), ("no name",)),
        (("--name", "\U0001f600" * 60), ("no name",)),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_used_is_named(
    shardline: Command, tiny: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    shardline("serve", tiny, *options, *ANYWHERE).one_line(2, *words)


def test_a_command_that_lacks_its_model_says_so(shardline: Command) -> None:
    shardline("serve").one_line(2, "MODEL")
    shardline("generate", "x").one_line(2, "--prompt")
    shardline("nonsense").one_line(2, "nonsense")


@pytest.mark.parametrize(
    "options",
    [
        ("--max-new-tokens", "0"),
        ("--max-new-tokens", str(10**12)),
        ("--temperature", "-1"),
        ("--top-p", "2"),
        ("--top-k", "0"),
        ("--seed", str(10**30)),
    ],
    ids=str,
)
def test_a_sampling_option_out_of_its_range_is_named(
    shardline: Command, tiny: Path, options: tuple[str, ...]
) -> None:
    shardline("generate", tiny, "--prompt", "x", *options).one_line(2, options[0])


def test_a_name_in_use_is_refused(shardline: Command, tiny: Path) -> None:
    with node_identity("ada"):
        shardline("serve", tiny, "--name", "ada", *ANYWHERE).one_line(2, "'ada'", "--name")


def test_a_home_that_is_a_file_is_named(shardline: Command, home: Path, tiny: Path) -> None:
    home.write_text("in the way")
    shardline("serve", tiny, *ANYWHERE).one_line(2, str(home))
    shardline("invite", "new").one_line(2, str(home))
    assert home.read_text() == "in the way"


# --- ADDRESSES ---


@pytest.fixture
def taken_address() -> Generator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_taken_port_is_named(
    shardline_process: Command, tiny: Path, taken_address: str, home: Path
) -> None:
    ended = shardline_process("serve", tiny, "--blocks", "0:1", "--listen", taken_address)
    ended.one_line(2, taken_address, "in use")
    assert not (home / "invites").exists(), "an invite of a swarm that never was"


@pytest.mark.parametrize(
    ("listen", "words"),
    [
        ("203.0.113.7:7411", ("203.0.113.7:7411", "not this machine's")),
        ("no-such-host.invalid:7411", ("no-such-host.invalid", "no such host")),
        ("nonsense", ("'nonsense'", "HOST:PORT")),
        ("127.0.0.1", ("HOST:PORT",)),
        ("127.0.0.1:70000", ("HOST:PORT",)),
        ("127.0.0.1:-1", ("HOST:PORT",)),
        ("::1:7411", ("[IPv6]:PORT",)),
        ("", ("HOST:PORT",)),
        ("127.0.0.1:" + "9" * 5000, ("HOST:PORT",)),
    ],
)
def test_an_address_that_is_not_ours_is_named(
    shardline: Command, tiny: Path, listen: str, words: tuple[str, ...]
) -> None:
    shardline("serve", tiny, "--blocks", "0:1", "--listen", listen).one_line(2, *words)


@pytest.mark.parametrize("command", ["status", "generate", "serve", "chat"])
def test_a_swarm_that_nobody_answers_for_is_code_3_within_seconds(
    shardline: Command, tiny: Path, taken_address: str, command: str
) -> None:
    address = taken_address.replace("127.0.0.1", "127.0.0.2")  # nobody listens there
    model = () if command == "status" else (tiny,)
    more = {"serve": ANYWHERE, "generate": ("--prompt", "x")}.get(command, ())
    started_s = time.monotonic()
    ended = shardline(command, *model, "--join", Invite.new((address,)).encode(), *more)
    ended.one_line(3, address)
    assert time.monotonic() - started_s < FEW_S


# --- INVITES ---

COMMANDS: dict[str, tuple[str, ...]] = {
    "serve": ("serve", "MODEL", *ANYWHERE),
    "generate": ("generate", "MODEL", "--prompt", "x"),
    "chat": ("chat", "MODEL"),
    "status": ("status",),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistyped_invite_is_refused_before_anything_heavy(
    shardline_process: Command, swarm: Swarm, home: Path, command: str
) -> None:
    text = invite_of(swarm)
    at = len(text) // 2
    wrong = text[:at] + ("a" if text[at] != "a" else "b") + text[at + 1 :]
    started_s = time.monotonic()
    shardline_process(*COMMANDS[command], "--join", wrong).one_line(2, "mistyped or cut short")
    assert time.monotonic() - started_s < FEW_S
    assert not home.exists(), "a wrong invite was kept"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("starts with sl1-",)),
        ("hello", ("starts with sl1-",)),
        ("sl1-", ("mistyped or cut short",)),
        ("sl9-abcdef", ("version sl9", "reads sl1")),
        ("sl1-" + "a" * 100_000, ("mistyped or cut short",)),
        ("sl1-\u00e4\u00f6", ("mistyped or cut short",)),
    ],
    ids=["empty", "hello", "cut", "newer", "endless", "umlauts"],
)
def test_what_is_no_invite_is_told_so(
    shardline: Command, text: str, words: tuple[str, ...], home: Path
) -> None:
    for command in COMMANDS.values():
        shardline(*command, "--join", text).one_line(2, *words)
    assert not home.exists()


def test_an_expired_invite_says_when(shardline: Command, tiny: Path) -> None:
    class Yesterday(SystemClock):
        def wall_s(self) -> float:
            return super().wall_s() - 86_400

    expired = Invite.new(("127.0.0.1:7411",), 3600, clock=Yesterday()).encode()
    shardline("status", "--join", expired).one_line(2, "expired on", "ask for a new one")
    shardline("serve", tiny, "--join", expired, *ANYWHERE).one_line(2, "expired on")


def test_a_foreign_invite_is_told_apart_and_takes_no_other_ones_place(
    shardline: Command, swarm: Swarm, home: Path, tiny: Path
) -> None:
    assert shardline("status", "--join", invite_of(swarm), "--json").code == 0
    foreign = Invite.new(swarm.invite.bootstrap)
    ended = shardline("status", "--join", foreign.encode())
    ended.one_line(2, "does not fit the swarm", swarm.invite.bootstrap[0])
    ended = shardline("serve", tiny, "--join", foreign.encode(), *ANYWHERE)
    ended.one_line(2, "does not fit the swarm")
    assert [kept.swarm_id for kept in InviteStore(home).load()] == [swarm.invite.swarm_id]
    assert len(json.loads(shardline("status", "--json").out)["nodes"]) == len(SPANS)


@pytest.mark.parametrize(
    "command", [("status",), ("generate", "m", "--prompt", "x"), ("chat", "m")]
)
def test_no_invite_at_all_says_where_to_get_one(
    shardline: Command, command: tuple[str, ...]
) -> None:
    shardline(*command).one_line(2, "--join", "shardline invite show")


def test_an_invite_file_that_is_damaged_is_named(shardline: Command, home: Path) -> None:
    shardline("invite", "new")
    (file,) = (home / "invites").iterdir()
    file.write_text("sl1-something else\n")
    shardline("status").one_line(2, str(file))
    assert file.read_text() == "sl1-something else\n"


@pytest.mark.parametrize(
    "life", ["1", "d", "-3d", "soon", "1w", "9" * 5000 + "d", "999999999d", "0s"]
)
def test_a_life_that_is_no_time_is_told_how_to_write_it(
    shardline: Command, life: str, home: Path
) -> None:
    ended = shardline("invite", "new", "--expires", life)
    ended.one_line(2)
    assert not home.exists()


def test_a_bootstrap_that_is_no_address_is_named(shardline: Command) -> None:
    shardline("invite", "new", "--bootstrap", "nonsense").one_line(2, "'nonsense'", "HOST:PORT")
    many = [word for port in range(1, 10) for word in ("--bootstrap", f"h:{port}")]
    shardline("invite", "new", *many).one_line(2, "at most 8")


# --- THE SWARM AND THE PROMPT ---


def test_a_prompt_beyond_the_context_names_both_lengths(
    shardline: Command, swarm: Swarm, tiny: Path
) -> None:
    before = writes(swarm, tiny)
    for more in ((), ("--json",)):
        ended = shardline(
            "generate", tiny, "--join", invite_of(swarm), "--prompt", "x" * 128, *more
        )
        ended.one_line(2, "128 tokens", "context 128")
    assert writes(swarm, tiny) == before


def test_a_prompt_without_a_token_is_refused(shardline: Command, swarm: Swarm, tiny: Path) -> None:
    ended = shardline("generate", tiny, "--join", invite_of(swarm), "--prompt", "")
    ended.one_line(2, "the prompt is empty")


def test_a_chain_with_a_gap_names_the_blocks(shardline: Command, tiny: Path) -> None:
    with nodes_here(tiny, [Span(1, 2)]) as partial:
        ended = shardline("generate", tiny, "--join", invite_of(partial), "--prompt", "x")
        ended.one_line(2, "no live node holds blocks 0:1, 2:4")


def test_a_swarm_of_another_model_says_what_it_serves(
    shardline: Command, swarm: Swarm, tmp_path: Path, tiny: Path
) -> None:
    make(named("llama"), tmp_path, seed=1)
    ended = shardline("generate", tmp_path, "--join", invite_of(swarm), "--prompt", "x")
    ended.one_line(2, "of this model", tiny.name)


def test_a_swarm_without_nodes_says_that_nobody_holds_a_block(
    shardline: Command, tiny: Path
) -> None:
    with joined(Invite.new(), listen="127.0.0.1:0") as lonely:
        ended = shardline("generate", tiny, "--join", invite_of(lonely), "--prompt", "x")
        ended.one_line(2, "no live node holds blocks 0:4")


# --- OTHER VERSIONS ---


def newer_record(node: Identity, like: NodeRecord, protocol: int) -> NodeRecord:
    changed = msgspec.structs.replace(
        like, node=node.node_id, name="newer", protocol=protocol, start=0, stop=4
    )
    return renew(changed, now_s=SystemClock().wall_s(), life_s=60)


def plain_record(swarm: Swarm) -> NodeRecord:
    return next(record for record in swarm.nodes_now() if record.state is State.READY)


def ignore(*_: object) -> None:
    """Nobody asks these members anything."""


@contextlib.asynccontextmanager
async def says_newer(like: NodeRecord) -> AsyncGenerator[Invite]:
    """A swarm whose one member's record is of the next protocol."""
    identity = Identity.ephemeral()
    async with membership(
        Invite.new(), identity, listen="127.0.0.1:0", on_message=ignore
    ) as member:
        await member.directory.publish(newer_record(identity, like, PROTOCOL + 1))
        yield member.invite


@contextlib.asynccontextmanager
async def speaks_newer(like: NodeRecord) -> AsyncGenerator[Invite]:
    """A swarm whose one member hides its version in its record and shows it when it is called."""
    invite, identity = Invite.new(), Identity.ephemeral()
    settings = ZenohSettings(listen="127.0.0.1:0", tls=issue_tls(invite))
    async with open_zenoh(settings) as engine:
        directory = ZenohDirectory(engine.session, invite.prefix, identity, SystemClock())
        transport = ZenohTransport(engine, invite.prefix, identity.node_id)
        async with (
            transport,
            Switchboard(transport, identity, invite.membership_key, ignore, protocol=PROTOCOL + 1),
        ):
            await directory.publish(newer_record(identity, like, PROTOCOL))
            yield invite.with_bootstrap(engine.listening[0])
            await directory.withdraw()


@pytest.mark.parametrize("command", ["status", "generate", "serve"])
def test_a_swarm_of_another_version_names_both_versions(
    shardline: Command, swarm: Swarm, tiny: Path, command: str
) -> None:
    like = plain_record(swarm)
    model = () if command == "status" else (tiny,)
    more = {"serve": ANYWHERE, "generate": ("--prompt", "x")}.get(command, ())
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(says_newer(like)) as invite,
    ):
        ended = shardline(command, *model, "--join", invite.encode(), *more)
    ended.one_line(2, f"protocol {PROTOCOL + 1}", f"protocol {PROTOCOL}:", "newer")


def test_a_node_that_speaks_another_version_names_both_versions(
    shardline: Command, swarm: Swarm, tiny: Path
) -> None:
    like = plain_record(swarm)
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(speaks_newer(like)) as invite,
    ):
        ended = shardline("generate", tiny, "--join", invite.encode(), "--prompt", "x")
        ended.one_line(2, f"protocol {PROTOCOL + 1}", f"this one {PROTOCOL}")


# --- AS A PERSON RUNS IT ---


def test_nonsense_ends_before_torch_is_imported(home: Path, tiny: Path) -> None:
    script = (
        "import sys\n"
        "from shardline.cli.main import run\n"
        "for options in ('--listen=x', '--memory=x', '--blocks=x', '--device=x', '--name=a/b',\n"
        "                '--join=x', '--dtype=x', '--bogus', '--help'):\n"
        "    print(run(['serve', sys.argv[1], options]), file=sys.stderr)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tiny)],
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=True,
    )
    assert [line for line in done.stderr.splitlines() if line.isdecimal()] == ["2"] * 8 + ["0"]
    assert not (home / "invites").exists()


def test_the_swarm_serves_on_after_all_this(swarm: Swarm, tiny: Path) -> None:
    assert len(writes(swarm, tiny)) == 10
