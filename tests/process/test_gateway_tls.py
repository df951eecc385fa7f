"""TLS with real handshakes: what is shown, what is refused, and how a new certificate comes."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from pathlib import Path

import aiohttp
import pytest
from certificates import Pair, make_pair, openssl
from gateway_rig import MODEL, Raw, Rig, chat, on_uvloop, until

from warmd.config.certificate import CertificateError, check_certificate, tls_context, valid_until
from warmd.gateway import Certificate, GatewayError


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def trusting(*pairs: Pair) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for each in pairs:
        context.load_verify_locations(each.certificate)
    return context


async def connect(rig: Rig, context: ssl.SSLContext) -> Raw:
    return Raw(*await asyncio.open_connection(rig.host, rig.port, ssl=context))


def subject(raw: Raw) -> str:
    shown = raw.writer.get_extra_info("ssl_object").getpeercert()
    return str(shown["subject"][0][0][1])


@on_uvloop
async def _streams_over_tls(folder: Path, certificate: Certificate, pair: Pair) -> None:
    async with Rig(folder, tls=certificate.context) as rig:
        raw = await connect(rig, trusting(pair))
        for _ in range(2):  # one connection is kept
            await raw.post(chat())
            assert (await raw.response())[0] == 200
        await raw.close()
        async with aiohttp.ClientSession() as client:
            url = f"https://{rig.host}:{rig.port}/v1/chat/completions"
            async with client.post(url, data=chat(), ssl=trusting(pair)) as answer:
                assert answer.status == 200
            async with client.get(f"http://{rig.host}:{rig.port}/v1/models") as answer:
                raise AssertionError(answer)


def test_requests_come_in_over_tls_and_plain_http_does_not(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "one")
    certificate = Certificate(pair.certificate, pair.key, pytest.fail)
    with pytest.raises(aiohttp.ClientConnectionError):
        _streams_over_tls(tmp_path, certificate, pair)


@on_uvloop
async def _renewal(folder: Path) -> None:
    one, two, three = (make_pair(folder / name, name) for name in ("one", "two", "three"))
    both, clock, said = trusting(one, two), Clock(), list[str]()
    certificate = Certificate(one.certificate, one.key, said.append, clock)
    async with Rig(folder, tls=certificate.context) as rig:
        early = await connect(rig, both)
        assert subject(early) == "one"

        # Between the two renames the pair doesn't match: nobody is told, nobody sees it.
        two.key.replace(one.key)
        clock.now += 2
        between = await connect(rig, both)
        assert subject(between) == "one"
        two.certificate.replace(one.certificate)
        clock.now += 2
        late = await connect(rig, both)
        assert subject(late) == "two"
        assert said == []

        # What stays wrong is told, once, and what was good stays in force.
        three.certificate.replace(one.certificate)
        for _ in range(4):
            clock.now += 2
            raw = await connect(rig, both)
            assert subject(raw) == "two"
            await raw.close()
        assert len(said) == 1
        assert "belongs to another certificate" in said[0]
        assert said[0].endswith("; the certificate read before stays in force")

        for raw in (early, between, late):  # they stood through all of that
            await raw.post(chat())
            assert (await raw.response())[0] == 200
            await raw.close()


def test_a_new_pair_holds_for_new_connections_and_a_broken_one_never(tmp_path: Path) -> None:
    _renewal(tmp_path)


@on_uvloop
async def _versions(folder: Path) -> None:
    pair = make_pair(folder, "one")
    certificate = Certificate(pair.certificate, pair.key, pytest.fail)
    async with Rig(folder, tls=certificate.context) as rig:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = trusting(pair)
            context.minimum_version = context.maximum_version = version
            context.set_alpn_protocols(["h2", "http/1.1"])
            raw = await connect(rig, context)
            assert raw.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
            await raw.close()
        old = trusting(pair)
        old.set_ciphers("DEFAULT:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await connect(rig, old)


def test_versions_before_1_2_are_refused_and_only_http_1_1_is_spoken(tmp_path: Path) -> None:
    _versions(tmp_path)


def test_one_file_may_hold_both(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "one")
    both = tmp_path / "both.pem"
    both.write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())
    Certificate(both, None, pytest.fail)
    assert [*check_certificate(both, None)] == []


def test_until_when_it_is_good(tmp_path: Path) -> None:
    for days in (30, 40 * 365):  # the second one's year is written in another way
        pair = make_pair(tmp_path, "one", days=days)
        assert valid_until(pair.certificate) == pytest.approx(time.time() + days * 86400, abs=60)
    said: list[str] = []
    Certificate(
        pair.certificate, pair.key, said.append, wall=lambda: time.time() + 41 * 365 * 86400
    )
    assert len(said) == 1
    assert "it has expired" in said[0]


def test_what_is_wrong_with_a_pair_is_one_sentence(tmp_path: Path) -> None:
    one, two = make_pair(tmp_path, "one"), make_pair(tmp_path, "two")
    locked, junk = tmp_path / "locked.key", tmp_path / "junk"
    openssl("pkey", "-in", str(one.key), "-aes256", "-passout", "pass:x", "-out", str(locked))
    junk.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for certificate, key, says in (
        (one.certificate, two.key, "belongs to another certificate"),
        (one.certificate, locked, "has a passphrase"),
        (one.certificate, one.certificate, "gateway.tls.key: holds no key in PEM"),
        (one.certificate, None, "name the key's file in gateway.tls.key"),
        (one.key, one.key, "holds no certificate in PEM"),
        (junk, one.key, "OpenSSL refuses it"),
        (tmp_path / "none", one.key, "there is no such file"),
        (one.certificate, tmp_path, "is a folder"),
    ):
        [problem] = check_certificate(certificate, key)
        assert says in str(problem)
        with pytest.raises(CertificateError):
            tls_context(certificate, key)
        with pytest.raises(GatewayError, match=r"gateway\.tls"):
            Certificate(certificate, key, pytest.fail)
    with pytest.raises(CertificateError, match="is no certificate"):
        valid_until(junk)


@on_uvloop
async def _silent(folder: Path) -> None:
    pair = make_pair(folder, "one")
    certificate = Certificate(pair.certificate, pair.key, pytest.fail)
    async with Rig(folder, tls=certificate.context) as rig:
        silent = await rig.raw()  # speaks no TLS, and nothing else
        raw = await connect(rig, trusting(pair))
        await raw.post(chat(MODEL))
        assert (await raw.response())[0] == 200
        await raw.close()
        await silent.close()


def test_who_never_shakes_hands_holds_up_nobody(tmp_path: Path) -> None:
    _silent(tmp_path)


@on_uvloop
async def _late_handshake(folder: Path) -> None:
    pair = make_pair(folder, "one")
    certificate = Certificate(pair.certificate, pair.key, pytest.fail)
    async with Rig(folder, tls=certificate.context) as rig:
        bare = socket.create_connection((rig.host, rig.port))
        listener = rig.gateway._listener
        await until(lambda: listener._shaking_hands, "it is accepted")
        stopping = asyncio.create_task(rig.gateway.stop_accepting())
        await asyncio.sleep(0)
        streams = await asyncio.open_connection(
            sock=bare, ssl=trusting(pair), server_hostname=rig.host
        )
        raw = Raw(*streams)
        await raw.post(chat(MODEL))
        assert (await raw.response())[0] == 200
        await stopping
        await raw.close()


def test_who_shakes_hands_as_the_gateway_stops_is_answered(tmp_path: Path) -> None:
    _late_handshake(tmp_path)
