"""A certificate and its key, from PEM files: what TLS is spoken with, and until when it is good."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from warmd.config.credentials import is_credential, not_handed_over
from warmd.config.problem import Problem
from warmd.config.reading import content, unreadable

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_KEY = re.compile(r"-----BEGIN ([A-Z ]*)PRIVATE KEY-----(\s+Proc-Type: 4,ENCRYPTED)?")
_UTC_TIME, _EXPLICIT_VERSION = 0x17, 0xA0  # tags of DER (RFC 5280, 4.1)


class CertificateError(Exception):
    """It can't be used. The text says which file, why, and what to do."""

    def __init__(self, file: Path, why: str, key: str = "certificate") -> None:
        super().__init__(f"{file}: gateway.tls.{key}: {why}")
        self.problem = Problem(file, None, f"gateway.tls.{key}", why)


def tls_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """Make the context of a server that speaks HTTP/1.1 over TLS 1.2 or later.

    `key` None: it stands in the certificate's file. Raises `CertificateError`.
    """
    _certificate(certificate)
    _check_key(key or certificate, "key" if key else "certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # With a password at hand OpenSSL asks no terminal for one.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        why = f"OpenSSL refuses it: {error.reason or error}; ask for a new one"
        if error.reason == "KEY_VALUES_MISMATCH":
            why = f"the key in {key or certificate} belongs to another certificate: name its own"
        raise CertificateError(certificate, why) from None
    except OSError as error:
        raise CertificateError(certificate, unreadable(error)) from None
    return context


def valid_until(certificate: Path) -> float:
    """Return when it expires, in Unix seconds. Raises `CertificateError`."""
    der = ssl.PEM_cert_to_DER_cert(_certificate(certificate))
    try:
        [(_, begin, end)] = _elements(der, 0, len(der))
        _, begin, end = next(_elements(der, begin, end))
        fields = [each for each in _elements(der, begin, end) if each[0] != _EXPLICIT_VERSION]
        _, begin, end = fields[3]  # after serial number, signature and issuer
        _, (tag, begin, end) = _elements(der, begin, end)
        form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
        last = datetime.strptime(der[begin:end].decode(), form).replace(tzinfo=UTC)
    except (ValueError, IndexError, StopIteration):
        raise CertificateError(certificate, "is no certificate: ask for a new one") from None
    return last.timestamp()


def check_certificate(certificate: Path, key: Path | None) -> Iterator[Problem]:
    """Find why the two can't be used."""
    try:
        tls_context(certificate, key)
        valid_until(certificate)
    except CertificateError as error:
        yield error.problem


def _elements(der: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the tag, the begin and the end of each element. Raises `IndexError`, `ValueError`."""
    while at < end:
        tag, length = der[at], der[at + 1]
        at += 2
        if length & 0x80:
            more = length & 0x7F
            length = int.from_bytes(der[at : at + more], "big")
            at += more
        if at + length > end:
            raise ValueError("an element that is longer than what it is in")
        yield tag, at, at + length
        at += length


def _certificate(file: Path) -> str:
    found = _CERTIFICATE.search(_text(file, "certificate"))
    if found is None:
        raise CertificateError(file, "holds no certificate in PEM (BEGIN CERTIFICATE)")
    return found[0]


def _check_key(file: Path, setting: str) -> None:
    found = _KEY.search(_text(file, setting))
    if found is None:
        what = "holds no key in PEM (BEGIN PRIVATE KEY)"
        more = "" if setting == "key" else "; name the key's file in gateway.tls.key"
        raise CertificateError(file, what + more, setting)
    if found[1].startswith("ENCRYPTED") or found[2]:
        raise CertificateError(
            file,
            "has a passphrase, which nobody is there to say: write the key without it "
            "(openssl pkey -in LOCKED -out OPEN)",
            setting,
        )


def _text(file: Path, setting: str) -> str:
    try:
        return content(file).decode("latin-1")
    except OSError as error:
        if is_credential(file) and isinstance(error, (FileNotFoundError, PermissionError)):
            raise CertificateError(file, not_handed_over(file), setting) from None
        raise CertificateError(file, unreadable(error), setting) from None
