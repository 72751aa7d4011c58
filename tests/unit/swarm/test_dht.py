"""The DHT's own promises: what it lets in, how it fails, and that it leaves no process behind."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import signal
import socket
import sys
import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.core.errors import AddressTaken, BadInput, NodeLost
from shardline.swarm import (
    DhtDirectory,
    DhtEngine,
    DhtSettings,
    Identity,
    Joined,
    NodeRecord,
    open_dht,
    sign,
)
from shardline.swarm.directories.dht_engine import (
    LEASE_MAX_S,
    REFUSED_MAX,
    SHARD_BYTES_MAX,
    LeaseGate,
    overflow,
)
from shardline.swarm.directories.dht_names import (
    PEER,
    key_file,
    listen_at,
    multiaddr,
    own_seed,
    peer_id,
)
from shardline.swarm.records import RECORD_BYTES_MAX
from shardline.wire import ZenohSettings, claim_address, open_zenoh, split_address
from tests.unit.swarm.making import HandClock, record

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.filterwarnings("ignore:path is deprecated:DeprecationWarning")
needs_hivemind = pytest.mark.skipif(
    find_spec("hivemind") is None, reason="hivemind is not installed: pip install 'shardline[dht]'"
)

DEADLINE_S = 60.0
PREFIX = "shardline/0123456789abcdef"
A = Identity.ephemeral()
KEY = b"the key of A's shard"
QUICK = DhtSettings(lease_s=1.5, poll_s=0.2)

PARENT = """
import asyncio, psutil
from shardline.swarm import DhtSettings, open_dht

async def main():
    async with open_dht(DhtSettings(), "p"):
        print(*(child.pid for child in psutil.Process().children()), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@dataclass
class _Said:
    """What a peer asks us to store."""

    subkey: bytes
    value: bytes
    key: bytes = KEY
    expiration_time: float = 0.0


@dataclass
class _Stored:
    value: bytes
    expiration_time: float


def _said(place: object, value: object, *, key: bytes = KEY, lease_s: float = 10.0) -> _Said:
    encode = msgspec.msgpack.encode
    return _Said(encode(place), encode(value), key, time.time() + lease_s)


def _gate() -> LeaseGate:
    return LeaseGate({KEY: A.node_id[0]})


def _place(sequence: int | str = 1) -> str:
    return f"{A.node_id}/{sequence}"


TRUE = sign(record(A.node_id), A)


def test_a_signed_record_in_its_place_is_let_in() -> None:
    assert _gate().validate(_said(_place(), TRUE))


@pytest.mark.parametrize(
    "said",
    [
        _said(_place(2), TRUE),
        _said(_place("01"), TRUE),
        _said(_place(10**20), TRUE),
        _said(A.node_id, TRUE),
        _said(7, TRUE),
        _said(None, TRUE),
        _said(_place(), 7),
        _said(_place(), bytes(RECORD_BYTES_MAX + 1)),
        _said(_place(), TRUE, key=b"another swarm's"),
        _said(_place(), TRUE, lease_s=1e5 * LEASE_MAX_S),
        _said(_place(), TRUE, lease_s=math.inf),
        _said(_place(), TRUE, lease_s=math.nan),
        _Said(b"\xc1", TRUE),
        _Said(b"", b""),
    ],
)
def test_anything_else_is_kept_out(said: _Said) -> None:
    assert not _gate().validate(said)


def test_an_answer_of_wrong_types_is_kept_out() -> None:
    for lie in ({"subkey": None}, {"value": 7}, {"expiration_time": "late"}, {"key": 7}):
        assert not _gate().validate(replace(_said(_place(), TRUE), **lie))


def test_what_is_remembered_of_the_refused_is_bounded() -> None:
    gate = _gate()
    for number in range(2 * REFUSED_MAX):
        gate.validate(_said(f"{A.node_id[0]}{number:063x}/1", bytes(2 * RECORD_BYTES_MAX)))
    assert len(gate.refused) == REFUSED_MAX
    assert all(len(data) == RECORD_BYTES_MAX + 1 for data in gate.refused.values())


def test_a_full_shard_loses_what_ends_first() -> None:
    third = bytes(SHARD_BYTES_MAX // 3)
    leases = {name: _Stored(third, end_s) for name, end_s in [("b", 2), ("d", 4), ("a", 1)]}
    assert overflow(leases.items()) == []
    assert overflow((leases | {"c": _Stored(third, 3)}).items()) == ["a"]


@pytest.mark.parametrize(
    "changes",
    [
        {"listen": ("127.0.0.1:7000",)},
        {"listen": ("/ip4/127.0.0.1/udp/0/quic",)},
        {"listen": ("/ip4/127.0.0.1/tcp/0,/ip4/0.0.0.0/tcp/0",)},
        {"announce": ("somewhere",)},
        {"peers": ("/ip4/127.0.0.1/tcp/7000",)},
        {"peers": ("/ip4/127.0.0.1/tcp/7000/p2p/no one",)},
        {"peers": ("/ip4/127.0.0.1/tcp/7000/p2p/12D3KooWcut",)},
    ],
)
def test_what_is_no_multiaddr_is_named(changes: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(BadInput, match=r"is no (address for|member of) a DHT"):
        replace(DhtSettings(), **changes)


def test_a_lease_is_not_longer_than_members_accept() -> None:
    with pytest.raises(ValueError, match="a lease of"):
        DhtSettings(lease_s=LEASE_MAX_S + 1)


@pytest.mark.anyio
async def test_without_hivemind_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hivemind", None)
    monkeypatch.delitem(sys.modules, "hivemind.p2p", raising=False)
    with pytest.raises(BadInput, match=r"pip install 'shardline\[dht\]'"):
        async with open_dht(DhtSettings(), PREFIX):
            pass


@needs_hivemind
@pytest.mark.anyio
async def test_nobody_at_the_peers_address_is_an_error() -> None:
    peer = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWNwjMwRby8moVgDymHahdGkF8AoMYW1TnKU1Js7D7U6Xi"
    with pytest.raises(NodeLost, match="no answer from the DHT"):
        async with open_dht(DhtSettings(peers=(peer,)), PREFIX):
            pass


@needs_hivemind
@pytest.mark.anyio
async def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"
        with pytest.raises(AddressTaken, match="in use"):
            async with open_dht(DhtSettings(listen=(listen,)), PREFIX):
                pass


@needs_hivemind
@pytest.mark.anyio
async def test_it_runs_beside_zenoh_and_leaves_no_process_and_no_warning_renamed() -> None:
    before = set(psutil.Process().children(recursive=True))
    async with open_zenoh(ZenohSettings(listen="127.0.0.1:0")), open_dht(QUICK, PREFIX) as engine:
        assert await engine.leases() == []
        assert set(psutil.Process().children(recursive=True)) > before
    assert set(psutil.Process().children(recursive=True)) == before
    assert logging.getLevelName(logging.WARNING) == "WARNING"


@needs_hivemind
@pytest.mark.anyio
async def test_who_listens_nowhere_is_seen_and_keeps_being_seen() -> None:
    mine: NodeRecord = record(A.node_id)
    settings = replace(QUICK, seed=bytes(32))
    async with open_dht(settings, PREFIX) as first:
        assert first.addresses[0].endswith(f"/p2p/{peer_id(bytes(32))}")
        outside = replace(QUICK, listen=(), peers=first.addresses)
        async with open_dht(outside, PREFIX) as dialler:
            assert dialler.addresses == ()
            watching = DhtDirectory(first, Identity.ephemeral(), HandClock()).watch()
            async with watching as events, asyncio.timeout(DEADLINE_S):
                await DhtDirectory(dialler, A, HandClock()).publish(mine)
                assert await anext(events) == Joined(mine)
                renewed_s = time.time() + 2 * QUICK.lease_s
                while all(lease.until_s < renewed_s for lease in await first.leases()):
                    pass


async def _renewed(seen_by: DhtEngine) -> None:
    """Somebody leases what stands there now anew."""
    began_s = time.time()
    async with asyncio.timeout(DEADLINE_S):
        while all(lease.until_s < began_s + QUICK.lease_s for lease in await seen_by.leases()):
            pass


@needs_hivemind
@pytest.mark.anyio
async def test_a_killed_daemon_is_replaced_and_its_records_come_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_dht(QUICK, PREFIX) as first:
        before = set(psutil.Process().children())
        async with open_dht(replace(QUICK, peers=first.addresses), PREFIX) as second:
            (daemon,) = set(psutil.Process().children()) - before
            await DhtDirectory(second, A, HandClock()).publish(record(A.node_id))
            daemon.kill()
            async with asyncio.timeout(DEADLINE_S):
                await _until(lambda: "the DHT's daemon has ended" in caplog.text)
            await _renewed(first)
            (replacement,) = set(psutil.Process().children()) - before
            assert replacement != daemon
        assert set(psutil.Process().children()) == before
    assert caplog.text.count("the DHT's daemon has ended: it is started again") == 1


@needs_hivemind
@pytest.mark.anyio
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_the_only_entrance_is_found_again_where_it_was(
    how: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardline.swarm.directories.dht_engine.DAEMON_S", 3.0)
    monkeypatch.setattr("shardline.swarm.directories.dht_hivemind.REPLY_S", 1.0)
    here = listen_at(*split_address(claim_address("127.0.0.1:0")))
    before = set(psutil.Process().children())
    async with open_dht(replace(QUICK, listen=(here,), seed=bytes(32)), PREFIX) as first:
        (daemon,) = set(psutil.Process().children()) - before
        outside = replace(QUICK, listen=(), peers=first.addresses)
        async with open_dht(outside, PREFIX) as dialler:
            await DhtDirectory(dialler, A, HandClock()).publish(record(A.node_id))
            addresses = first.addresses
            daemon.send_signal(how)
            async with asyncio.timeout(DEADLINE_S):
                await _until(lambda: not _lives(daemon.pid))
            await _renewed(first)
            assert first.addresses == addresses


@needs_hivemind
@pytest.mark.anyio
async def test_who_founds_begins_where_nobody_answers() -> None:
    gone = multiaddr(f"127.0.0.1:1/{peer_id(bytes(32))}")
    async with open_dht(replace(QUICK, peers=(gone,), founds=True), PREFIX) as engine:
        assert await engine.leases() == []


def test_a_seed_is_the_key_that_libp2p_reads() -> None:
    """Key and public key of libp2p's specification of peer ids."""
    seed = "7e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d"
    public = "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
    assert key_file(bytes.fromhex(seed)).hex() == f"08011240{seed}{public}"


@given(st.binary(min_size=32, max_size=32))
def test_a_name_fits_its_pattern(seed: bytes) -> None:
    assert re.fullmatch(PEER, peer_id(seed))


def test_a_place_becomes_a_multiaddr() -> None:
    name = peer_id(bytes(32))
    assert multiaddr(f"10.0.0.1:7/{name}") == f"/ip4/10.0.0.1/tcp/7/p2p/{name}"
    assert multiaddr(f"[::1]:7/{name}") == f"/ip6/::1/tcp/7/p2p/{name}"
    assert multiaddr(f"attic.example.org:7/{name}") == f"/dns/attic.example.org/tcp/7/p2p/{name}"
    for nonsense in ("10.0.0.1:7", f"10.0.0.1/{name}", f"a b:7/{name}", f"iroh/{name}"):
        with pytest.raises(BadInput, match="no member of a DHT"):
            multiaddr(nonsense)


def test_a_nodes_daemon_keeps_its_name_in_one_swarm_only() -> None:
    assert own_seed(A, "p") == own_seed(A, "p")
    assert len({own_seed(A, "p"), own_seed(A, "q"), own_seed(Identity.ephemeral(), "p")}) == 3


@needs_hivemind
@pytest.mark.anyio
async def test_a_killed_parent_leaves_no_daemon() -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout
    async with asyncio.timeout(DEADLINE_S):
        (daemon,) = (await parent.stdout.readline()).split()
        parent.send_signal(signal.SIGKILL)
        await parent.wait()
        await _until(lambda: not _lives(int(daemon)))


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - neither a log nor a dead process tells
        await asyncio.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
