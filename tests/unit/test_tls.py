"""Certificates for keys that their parties made: what the registrar signs, and what a listener says without one."""

from __future__ import annotations

import json
import logging
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from koinon.config import FederationFile, load_party
from koinon.errors import ConfigError
from koinon.observe import TLS_EXPIRES, JsonLines
from koinon.service import client_tls, server_tls
from scripts import tls
from scripts._homes import certificate_request, require_scheme
from scripts.tls import Certified, certify, expiry, make_authority, make_key, make_request
from tests.unit.test_committee_command import run
from tests.unit.test_epochs import federation


def party(tmp_path: Path) -> Path:
    home = tmp_path / "replica-4"
    home.mkdir()
    (home / "config.toml").write_text('role = "replica"\n[tls]\ncertificate = "tls.pem"\nkey = "tls.key"\n')
    return home


def registrar(tmp_path: Path) -> tuple[Path, Certified]:
    home, authority = tmp_path / "registrar", make_authority("test")
    home.mkdir()
    (home / "ca.pem").write_bytes(authority.certificate)
    (home / "ca.key").write_bytes(authority.key)
    return home, authority


def accepted(home: Path, authority: Certified, name: str) -> bool:
    """Whether who trusts the authority takes the listener of `home` for `name`."""
    serving, asking = server_tls(home, load_party(home)), client_tls(authority.certificate.decode())
    assert serving is not None
    assert asking is not None
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = serving.wrap_bio(there, back, server_side=True)
    client = asking.wrap_bio(back, there, server_hostname=name)
    try:
        for _ in range(4):
            for side in (client, server):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
    except ssl.SSLError:
        return False
    return client.version() == "TLSv1.3"


def test_an_operator_asks_and_the_registrar_certifies_a_key_that_stays_at_home(tmp_path: Path) -> None:
    home, (office, authority) = party(tmp_path), registrar(tmp_path)
    run("request", "10.0.0.5", "--home", str(home))
    assert stat.S_IMODE((home / "tls.key").stat().st_mode) == 0o600
    assert b"PRIVATE" not in (home / "tls.csr").read_bytes()
    run("certify", str(home / "tls.csr"), "10.0.0.5", "--home", str(office), "--out", str(home / "tls.pem"))
    assert accepted(home, authority, "10.0.0.5")
    assert not accepted(home, authority, "10.0.0.6")
    assert not accepted(home, make_authority("another"), "10.0.0.5")


def test_asking_again_renews_the_certificate_of_the_same_key(tmp_path: Path) -> None:
    home, authority = party(tmp_path), make_authority("test")
    first = certify(authority, certificate_request(home).read_bytes(), "a.example", ["a.example"])
    key = (home / "tls.key").read_bytes()
    second = certify(authority, certificate_request(home).read_bytes(), "b.example", ["b.example"])
    assert (home / "tls.key").read_bytes() == key
    one, other = (x509.load_pem_x509_certificate(each) for each in (first, second))
    assert one.public_key() == other.public_key()
    assert one.serial_number != other.serial_number


def test_names_and_powers_that_a_request_asks_for_are_not_given(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    asked = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "replica-0")]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("bank.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = x509.load_pem_x509_certificate(
        certify(make_authority("test"), asked.public_bytes(serialization.Encoding.PEM), "10.0.0.5", ["10.0.0.5"])
    )
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "bank.example" not in names.get_values_for_type(x509.DNSName)
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert "replica-0" not in made.subject.rfc4514_string()


def test_what_is_no_request_of_a_key_of_ours_is_refused() -> None:
    theirs = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    of_rsa = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(theirs, hashes.SHA256())
    asked = make_request(make_key(), "replica-4")
    lines = asked.splitlines()
    other = make_request(make_key(), "replica-4").splitlines()
    mixed = b"\n".join([*lines[:-2], other[-2], lines[-1]])
    for wrong in (b"", b"nonsense", mixed, of_rsa.public_bytes(serialization.Encoding.PEM)):
        with pytest.raises(ConfigError) as refused:
            certify(make_authority("test"), wrong, "replica-4", [])
        assert refused.value.hint == tls.REQUEST_HINT


def test_only_who_holds_the_authority_certifies(tmp_path: Path) -> None:
    home = party(tmp_path)
    with pytest.raises(ConfigError, match="no authority") as refused:
        run("certify", str(certificate_request(home)), "x", "--home", str(home), "--out", str(tmp_path / "tls.pem"))
    assert "--tls" in str(refused.value.hint)
    with pytest.raises(ConfigError, match="no home yet"):
        run("request", "x", "--home", str(tmp_path / "nowhere"))


def test_a_listener_without_its_certificate_names_the_file_and_the_way_to_one(tmp_path: Path) -> None:
    home = party(tmp_path)
    with pytest.raises(ConfigError, match=r"replica-4/tls\.pem is not there") as refused:
        server_tls(home, load_party(home))
    assert "koinon-committee request" in str(refused.value.hint)
    certificate_request(home)
    (home / "tls.pem").write_bytes(make_authority("test").certificate)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        server_tls(home, load_party(home))


def test_a_listener_says_in_time_that_its_certificate_runs_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home, authority = party(tmp_path), make_authority("test")
    for days, told in ((tls.CERTIFICATE_DAYS, False), (10, True)):
        monkeypatch.setattr(tls, "CERTIFICATE_DAYS", days)
        made = certify(authority, certificate_request(home).read_bytes(), "x", [])
        (home / "tls.pem").write_bytes(made)
        caplog.clear()
        server_tls(home, load_party(home))
        lines = [json.loads(JsonLines().format(each)) for each in caplog.records if each.levelno >= logging.WARNING]
        assert [line["event"] for line in lines] == ["the TLS certificate runs out"] * told
        assert TLS_EXPIRES._value.get() == expiry(made).timestamp()
        assert abs(expiry(made) - datetime.now(UTC) - timedelta(days=days)) < timedelta(hours=1)


def test_a_seats_address_fits_the_federations_use_of_tls() -> None:
    plain = federation()
    tls_too = FederationFile(**{**{name: getattr(plain, name) for name in plain.__struct_fields__}, "tls_ca": "PEM"})
    require_scheme(plain, "http://10.0.0.5:7004")
    require_scheme(tls_too, "https://10.0.0.5:7004")
    with pytest.raises(ConfigError, match="uses TLS"):
        require_scheme(tls_too, "http://10.0.0.5:7004")
    with pytest.raises(ConfigError, match="no authority"):
        require_scheme(plain, "https://10.0.0.5:7004")
