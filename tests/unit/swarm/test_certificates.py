from __future__ import annotations

import ssl
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from shardline.core.errors import InviteExpired
from shardline.swarm import TLS_NAME, Invite, issue_tls
from tests.unit.swarm.making import NOW_S, HandClock

if TYPE_CHECKING:
    from pathlib import Path

    from shardline.wire import TlsFiles


def _context(tls: TlsFiles, folder: Path, *, server: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    folder.mkdir(exist_ok=True)
    (folder / "certificate").write_text(tls.certificate_pem)
    (folder / "key").write_text(tls.key_pem)
    context.load_cert_chain(folder / "certificate", folder / "key")
    context.load_verify_locations(cadata=tls.ca_pem)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def _shake_hands(server: TlsFiles, client: TlsFiles, folder: Path, name: str) -> None:
    """One mutual TLS handshake in memory; raises ssl.SSLError as either side does."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_context = _context(server, folder / "server", server=True)
    client_context = _context(client, folder / "client", server=False)
    sides = [
        client_context.wrap_bio(to_client, to_server, server_hostname=name),
        server_context.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    for side in sides:
        side.do_handshake()
    assert sides[1].getpeercert()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", TLS_NAME])
def test_two_holders_of_an_invite_accept_each_other(tmp_path: Path, name: str) -> None:
    invite = Invite.new(("h:1",))
    again = Invite.parse(invite.encode())
    _shake_hands(issue_tls(invite), issue_tls(again), tmp_path, name)


def test_an_invite_that_expires_works_until_then(tmp_path: Path) -> None:
    invite = Invite.new((), 3600)
    _shake_hands(issue_tls(invite), issue_tls(invite), tmp_path, "localhost")


@pytest.mark.parametrize("stranger", ["other swarm", "edited expiry"])
@pytest.mark.parametrize("serves", ["stranger", "member"])
def test_a_stranger_is_refused_either_way(tmp_path: Path, stranger: str, serves: str) -> None:
    invite = Invite.new((), 3600)
    other = Invite.new() if stranger == "other swarm" else replace(invite, expires_at_s=None)
    sides = issue_tls(invite), issue_tls(other)
    server, client = reversed(sides) if serves == "stranger" else sides
    with pytest.raises(ssl.SSLError):
        _shake_hands(server, client, tmp_path, "localhost")


def test_a_certificate_ends_with_its_invite() -> None:
    clock = HandClock()
    invite = Invite.new((), 3600, clock=clock)
    tls = issue_tls(invite, clock=clock)
    for pem in (tls.certificate_pem, tls.ca_pem):
        end = x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc
        assert end.timestamp() == NOW_S + 3600
    clock.now_s += 3600
    with pytest.raises(InviteExpired):
        issue_tls(invite, clock=clock)


def test_each_process_has_a_key_of_its_own() -> None:
    invite = Invite.new()
    assert issue_tls(invite).key_pem != issue_tls(invite).key_pem


def test_every_holder_has_the_same_authority() -> None:
    invite = Invite.new()
    one, two = (x509.load_pem_x509_certificate(issue_tls(invite).ca_pem.encode()) for _ in range(2))
    assert one.tbs_certificate_bytes == two.tbs_certificate_bytes
