"""What the holder of a key may do, seen from outside, in both dialects."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

import pytest
from gateway_rig import ALIAS, MODEL, Rig, chat, on_uvloop, until

from warmd.config import KeySettings
from warmd.gateway import Keys, Refusal

ALICE, BOB = "Authorization: Bearer a\r\n", "x-api-key: b\r\n"


def keys(folder: Path) -> Keys:
    file = folder / "keys"
    digests = {name: hashlib.sha256(name[:1].encode()).hexdigest() for name in ("alice", "bob")}
    file.write_text("".join(f"{name}:{digest}\n" for name, digest in digests.items()))
    return Keys(file, pytest.fail)


@on_uvloop
async def _models(folder: Path) -> None:
    limits = {"alice": KeySettings(models=())}
    async with Rig(folder, keys=keys(folder), limits_of_keys=lambda: limits) as rig:
        raw = await rig.raw()
        told = []
        for name in (ALIAS, "no-such-model"):
            await raw.post(chat(name), more=ALICE)
            status, _, body = await raw.response()
            told.append((status, json.loads(body)["error"]["message"].replace(name, "X")))
        assert told[0] == told[1], "what others use is told nobody"
        assert told[0] == (404, "There is no model X that this key may use; the models here: none.")
        for path, more, status in (
            ("/v1/models", ALICE, 200),
            (f"/v1/models/{MODEL}", ALICE, 404),
            (f"/v1/models/{MODEL}", BOB, 200),
            ("/v1/models", "", 401),
        ):
            await raw.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode())
            answer = await raw.response()
            assert answer[0] == status
            if (path, more) == ("/v1/models", ALICE):
                assert json.loads(answer[2])["data"] == []
        limits["alice"] = KeySettings(models=(MODEL,))  # as a reload does
        await raw.post(chat(ALIAS), more=ALICE)
        assert (await raw.response())[0] == 200
        record = await rig.record()
        assert (record.key, record.replica, record.bytes_in) == (
            "alice",
            f"{MODEL}.0",
            len(chat(ALIAS)),
        )
        assert [(each.key, each.status) for each in rig.refusals] == [
            ("alice", 404),
            ("alice", 404),
            ("alice", 404),
            (None, 401),
        ]


def test_a_key_sees_its_models_only(tmp_path: Path) -> None:
    _models(tmp_path)


@on_uvloop
async def _in_flight(folder: Path) -> None:
    limits = {"alice": KeySettings(in_flight=2)}
    async with Rig(folder, keys=keys(folder), limits_of_keys=lambda: limits) as rig:
        rig.models.gate.clear()
        held = [await rig.raw() for _ in range(2)]
        for raw in held:
            await raw.post(chat(), more=ALICE)
        await until(lambda: rig.models.waiting == 2, "both are held")
        third = await rig.raw()
        await third.post(chat(), "/v1/messages", more=ALICE)
        status, headers, body = await third.response()
        assert (status, headers["retry-after"]) == (429, "1")
        assert json.loads(body)["error"]["type"] == "rate_limit_error"
        (told,) = rig.refusals
        assert told.request_id
        expected = Refusal("/v1/messages", 429, "rate_limit_exceeded", "alice", told.request_id)
        assert told == expected
        other = await rig.raw()
        await other.post(chat(), more=BOB)
        await until(lambda: rig.models.waiting == 3, "another key has its own count")

        # However a request ends, its place is free again: left by its client, or answered.
        await held[0].close()
        await until(lambda: rig.models.waiting == 2, "its client has left")
        fresh = await rig.raw()
        await fresh.post(chat(), more=ALICE)
        await until(lambda: rig.models.waiting == 3, "its place is taken anew")
        rig.models.gate.set()
        for raw in (held[1], fresh, other):
            assert (await raw.response())[0] == 200
        for bad in (b"{", b'{"model": "none"}'):  # refused after it was counted
            for _ in range(3):
                await fresh.post(bad, more=ALICE)
                assert (await fresh.response())[0] in (400, 404)
        for raw in (held[1], fresh):
            await raw.post(chat(), more=ALICE)
        answers = await asyncio.gather(held[1].response(), fresh.response())
        assert [each[0] for each in answers] == [200, 200]


def test_requests_in_flight_of_a_key(tmp_path: Path) -> None:
    _in_flight(tmp_path)
