"""The federation's own certificate authority: ECDSA P-256, TLS 1.3 only, nothing in the machine's trust store.

The authority's key stays with the registrar; `federation.json` carries its certificate, so that whoever trusts the
file trusts the replicas' listeners and nobody else. Who speaks is proved by signatures, never by a certificate.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from koinon.errors import ConfigError

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 825
CLOCK_SKEW = timedelta(hours=1)
REQUEST_HINT = "its operator makes one: koinon-committee request"
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Certified:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


def make_authority(name: str) -> Certified:
    """A fresh self-signed authority for the federation `name`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(f"Koinon {name}"[:64])
    usage = _usage(key_cert_sign=True, crl_sign=True)
    certificate = (
        _builder(subject, subject, key.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Certified(certificate.public_bytes(serialization.Encoding.PEM), _pem(key))


def issue(authority: Certified, party: str, hosts: Iterable[str] = ()) -> Certified:
    """A key, and a server certificate of `party` for `hosts` and this machine's own names."""
    key = ec.generate_private_key(ec.SECP256R1())
    return Certified(_certificate(authority, key.public_key(), party, hosts), _pem(key))


def make_request(key: bytes, party: str) -> bytes:
    """A request (PKCS #10, PEM) for a certificate of the private `key` (PEM)."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(party[:64]))
    return builder.sign(_private(key, "the key"), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def make_key() -> bytes:
    """A fresh private key for a listener, PEM."""
    return _pem(ec.generate_private_key(ec.SECP256R1()))


def certify(authority: Certified, request: bytes, party: str, hosts: Iterable[str]) -> bytes:
    """A certificate for the key of a request, whose holder signed it; ConfigError for what is no good request.

    What it is for is the authority's word alone: names that the request asks for are not read.
    """
    try:
        asked = x509.load_pem_x509_csr(request)
        signed = asked.is_signature_valid
        key = asked.public_key()
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise ConfigError(f"the certificate request cannot be read: {error}", hint=REQUEST_HINT) from None
    if not signed or not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError("the certificate request is not signed by a P-256 key of its own", hint=REQUEST_HINT)
    return _certificate(authority, key, party, hosts)


def expiry(certificate: bytes) -> datetime:
    """When a certificate (PEM) runs out."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def _certificate(
    authority: Certified, public_key: ec.EllipticCurvePublicKey, party: str, hosts: Iterable[str]
) -> bytes:
    issuer, issuer_key = _load(authority)
    names = dict.fromkeys([party, *hosts, *LOCAL_NAMES])
    return (
        _builder(_name(party[:64]), issuer.subject, public_key, CERTIFICATE_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load(authority: Certified) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate(authority.certificate)
    except ValueError as error:
        raise ConfigError(
            f"the authority's certificate cannot be read: {error}",
            hint="restore it from a backup: ca.pem and ca.key of the registrar, tls.key of a party",
        ) from None
    return certificate, _private(authority.key, "the authority's key")


def _private(key: bytes, what: str) -> ec.EllipticCurvePrivateKey:
    try:
        found = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{what} cannot be read: {error}",
            hint="restore it from a backup: ca.pem and ca.key of the registrar, tls.key of a party",
        ) from None
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise ConfigError(
            f"{what} is not an elliptic-curve key", hint="koinon-committee request makes one where there is none"
        )
    return found
