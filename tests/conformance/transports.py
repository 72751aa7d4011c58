"""The transports that the conformance suite runs over; a new one adds its line to TRANSPORTS."""

from __future__ import annotations

import datetime as dt
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from nacl.signing import SigningKey

from shardline.core.ids import NodeId
from shardline.wire import (
    IrohSettings,
    IrohTransport,
    MemoryNetwork,
    TlsFiles,
    Transport,
    ZenohSettings,
    ZenohTransport,
    open_zenoh,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager


class KeySigner:
    """A node key that is made up on the spot."""

    def __init__(self) -> None:
        self._key = SigningKey.generate()
        self.node_id = NodeId(self._key.verify_key.encode().hex())

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data).signature


class Network(Protocol):
    """Where the nodes of one test meet."""

    async def join(self, me: NodeId) -> Transport:
        """An entered transport that all earlier ones can reach; it is left after the test."""
        ...


def throwaway_tls() -> TlsFiles:
    """A fresh certificate authority with one certificate, good for a day."""
    today = dt.datetime.now(dt.UTC)
    day = dt.timedelta(days=1)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "swarm")])

    def builder(name: str, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(authority_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(today - day)
            .not_valid_after(today + day)
        )

    authority = (
        builder("swarm", authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    certificate = (
        builder("node", key.public_key())
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("node")]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    key_pem = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return TlsFiles(
        authority.public_bytes(pem).decode(),
        certificate.public_bytes(pem).decode(),
        key_pem.decode(),
    )


class _Memory:
    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._network = MemoryNetwork()

    async def join(self, me: NodeId) -> Transport:
        return await self._stack.enter_async_context(self._network.endpoint(me))


class _Zenoh:
    def __init__(self, stack: AsyncExitStack, tls: TlsFiles | None) -> None:
        self._stack = stack
        self._tls = tls
        self._known: tuple[str, ...] = ()

    async def join(self, me: NodeId) -> Transport:
        settings = ZenohSettings("127.0.0.1:0", self._known, tls=self._tls)
        engine = await self._stack.enter_async_context(open_zenoh(settings))
        self._known = self._known or engine.listening
        return await self._stack.enter_async_context(ZenohTransport(engine, "test", me))


class _Iroh:
    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._nodes: dict[NodeId, IrohTransport] = {}

    async def join(self, me: NodeId) -> Transport:
        transport = IrohTransport(IrohSettings("127.0.0.1:0"), me, self._find)
        self._nodes[me] = await self._stack.enter_async_context(transport)
        return transport

    async def _find(self, peer: NodeId) -> list[str]:
        return [self._nodes[peer].address] if peer in self._nodes else []


@asynccontextmanager
async def memory() -> AsyncGenerator[Network]:
    async with AsyncExitStack() as stack:
        yield _Memory(stack)


@asynccontextmanager
async def zenoh() -> AsyncGenerator[Network]:
    async with AsyncExitStack() as stack:
        yield _Zenoh(stack, None)


@asynccontextmanager
async def zenoh_tls() -> AsyncGenerator[Network]:
    async with AsyncExitStack() as stack:
        yield _Zenoh(stack, throwaway_tls())


@asynccontextmanager
async def iroh() -> AsyncGenerator[Network]:
    async with AsyncExitStack() as stack:
        yield _Iroh(stack)


TRANSPORTS: dict[str, Callable[[], AbstractAsyncContextManager[Network]]] = {
    "memory": memory,
    "zenoh": zenoh,
    "zenoh over TLS": zenoh_tls,
    "iroh": iroh,
}
