"""TLS from the invite alone: whoever holds it can make a certificate, a stranger cannot.

The authority's key is derived from the invite, so every holder has the same one and nothing needs
to be handed out. ECDSA signatures hold luck, so two holders' authority certificates differ in their
signature; TLS only compares subject and key, which are equal, and tests keep that true for OpenSSL
and rustls. TLS shows membership, no more: who a node is, its own signature shows.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shardline.core.clock import Clock, SystemClock
from shardline.wire import TlsFiles

if TYPE_CHECKING:
    from shardline.swarm.invite import Invite

__all__ = ["TLS_NAME", "issue_tls"]

TLS_NAME: Final = "member.shardline.internal"
"""The name in every member's certificate, beside those of the loopback."""

_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_CA_START = datetime(2020, 1, 1, tzinfo=UTC)
_CA_END = datetime(2120, 1, 1, tzinfo=UTC)
_SKEW = timedelta(days=1)  # a newcomer's clock may be behind
_LEAF_LIFE = timedelta(days=3650)  # its key dies with the process
_NO_USE = dict.fromkeys(
    (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
        "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    ),
    False,
)  # fmt: skip


def issue_tls(invite: Invite, *, clock: Clock | None = None) -> TlsFiles:
    """A fresh key and certificate for this process, and the authority that signed it.

    The certificate ends with the invite. Raises InviteExpired.
    """
    now_s = (clock or SystemClock()).wall_s()
    invite.check_expiry(now_s)
    authority_key = _authority_key(invite)
    authority = _authority(invite, authority_key)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _leaf(invite, authority, authority_key, key, datetime.fromtimestamp(now_s, UTC))
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    pem = serialization.Encoding.PEM
    files = authority.public_bytes(pem), certificate.public_bytes(pem), key_pem
    return TlsFiles(*(file.decode() for file in files))


def _authority_key(invite: Invite) -> ec.EllipticCurvePrivateKey:
    """The invite's key; 48 bytes reduced leave no bias (FIPS 186-5, A.2.1)."""
    number = int.from_bytes(invite.derive("tls authority", 48), "big")
    return ec.derive_private_key(number % (_P256_ORDER - 1) + 1, ec.SECP256R1())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _end(invite: Invite) -> datetime:
    if invite.expires_at_s is None:
        return _CA_END
    return datetime.fromtimestamp(invite.expires_at_s, UTC)


def _authority(invite: Invite, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    subject = _name(f"shardline swarm {invite.swarm_id}")
    usage = x509.KeyUsage(**(_NO_USE | {"key_cert_sign": True}))
    public_key = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public_key)
        .serial_number(1)
        .not_valid_before(_CA_START)
        .not_valid_after(_end(invite))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .sign(key, hashes.SHA256())
    )


def _leaf(
    invite: Invite,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(IPv4Address("127.0.0.1")),
        x509.IPAddress(IPv6Address("::1")),
        x509.DNSName(TLS_NAME),
    ]
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    usage = x509.KeyUsage(**(_NO_USE | {"digital_signature": True}))
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(_name(TLS_NAME))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(_CA_START, now - _SKEW))
        .not_valid_after(min(_end(invite), now + _LEAF_LIFE))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(issuer, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
