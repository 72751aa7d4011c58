"""Addresses that peers publish, and the copying that is mended."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.core.errors import BadInput
from shardline.wire.transports.iroh_engine import (
    IrohAddress,
    endpoint_addr,
    load_iroh,
    parse_address,
    relay_mode,
    route_of,
)

ID = "0be8" * 16
RELAY = "https://relay.example./"


@given(
    st.lists(st.ip_addresses(v=4).map(lambda ip: f"{ip}:7000"), min_size=1, max_size=15),
    st.sampled_from([None, RELAY]),
)
def test_a_published_address_is_read_back(direct: list[str], relay: str | None) -> None:
    address = IrohAddress(ID, tuple(direct), relay)
    assert parse_address(str(address)) == address


def test_ipv6_and_relays_alone_are_addresses() -> None:
    assert parse_address(f"iroh/{ID}/[::1]:7") == IrohAddress(ID, ("[::1]:7",))
    assert parse_address(f"iroh/{ID}/{RELAY}") == IrohAddress(ID, (), RELAY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tls/127.0.0.1:7000",
        f"iroh/{ID}",
        f"iroh/{ID}/",
        f"iroh/{ID[1:]}/127.0.0.1:1",
        f"iroh/{ID.upper()}/127.0.0.1:1",
        f"iroh/{ID}/example.org:1",
        f"iroh/{ID}/127.0.0.1:65536",
        f"iroh/{ID}/{RELAY},{RELAY}",
        f"iroh/{ID}/http://127.0.0.1/",
        f"iroh/{ID}/" + ",".join(["127.0.0.1:1"] * 17),
        f"iroh/{ID}/{RELAY}" + "x" * 1_024,
    ],
)
def test_what_is_no_address_of_ours_is_none(text: str) -> None:
    assert parse_address(text) is None


@given(st.text())
def test_no_text_makes_the_parser_fail(text: str) -> None:
    assert parse_address(text) is None
    assert parse_address(f"iroh/{ID}/{text}") is None or "." in text or ":" in text


def test_a_peer_cannot_send_us_to_a_relay_that_is_not_ours() -> None:
    iroh = load_iroh()
    signed = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    address = IrohAddress(signed, ("127.0.0.1:7",), RELAY)
    ours = relay_mode(iroh, (RELAY,))
    assert endpoint_addr(iroh, address, ours).relay_url() == RELAY
    for other in (relay_mode(iroh, ()), relay_mode(iroh, ("https://other.example./",))):
        assert endpoint_addr(iroh, address, other).relay_url() is None


@dataclass
class _Path:
    is_selected: bool
    is_relay: bool


def test_the_selected_path_is_the_route() -> None:
    direct, relayed = _Path(True, False), _Path(True, True)  # noqa: FBT003
    unused = _Path(False, True)  # noqa: FBT003
    assert route_of([direct, unused]) == "direct"
    assert route_of([relayed]) == "relayed"
    assert route_of([]) == "direct"


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "iroh", None)
    with pytest.raises(BadInput, match=r"pip install 'shardline\[nat\]'"):
        load_iroh()


def builder() -> Any:
    return importlib.import_module("iroh.iroh_ffi")._UniffiRustBufferBuilder  # noqa: SLF001


def test_the_slow_loop_is_replaced_and_copies_the_same() -> None:
    load_iroh()
    assert "enumerate" not in builder().write.__code__.co_names
    data = bytes(range(256)) * 300
    for part in (data, bytearray(data), memoryview(data)):
        built = builder()()
        built.write(b"head")
        built.write(part)
        buffer = built.finalize()
        assert buffer.data[: buffer.len] == b"head" + data
        buffer.free()


def test_a_wheel_that_is_mended_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(_: object, value: bytes) -> int:
        return len(value)

    monkeypatch.setattr(builder(), "write", write)
    load_iroh()
    assert builder().write is write
