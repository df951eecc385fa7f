"""A line for each request that names a model; of refused ones a few, and how many more."""

from __future__ import annotations

import logging

import pytest

from warmd.audit import Audit
from warmd.gateway import Refusal, RequestRecord
from warmd.ladder import Rung


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


RECORD = RequestRecord(
    model="tiny",
    path="/v1/chat/completions",
    status=200,
    met=Rung.ASLEEP,
    idle_s=3.0,
    waited_s=1.25,
    first_byte_s=1.5,
    total_s=2.0,
    request_id="r-1",
    replica="tiny.0",
    key="alice",
    bytes_in=11,
    bytes_out=22,
)


def test_a_request_is_one_line_with_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "warmd"):
        Audit(Clock()).request_done(RECORD)
    [line] = caplog.records
    assert line.getMessage() == (
        "tiny.0: /v1/chat/completions of alice: 200 after 2.000 s: met it asleep, waited 1.250 s, "
        "its first byte after 1.500 s"
    )
    assert line.__dict__["warmd"] == {
        "model": "tiny",
        "key": "alice",
        "path": "/v1/chat/completions",
        "status": 200,
        "request_id": "r-1",
        "replica": "tiny.0",
        "rung": "asleep",
        "waited_s": "1.250000",
        "first_byte_s": "1.500000",
        "seconds": "2.000000",
        "bytes_in": 11,
        "bytes_out": 22,
    }


def test_a_flood_of_refused_requests_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    audit = Audit(clock)
    with caplog.at_level(logging.INFO, "warmd"):
        for n in range(5000):
            audit.refused(Refusal("/v1/models", 429 if n % 5 == 0 else 401, "x", None))
        audit.tick()
        assert len(caplog.records) == 20
        clock.now += 10.0
        audit.tick()
        audit.tick()
        assert len(caplog.records) == 21
        assert caplog.records[-1].getMessage() == (
            "4980 requests more refused within 10 s than are told one by one: "
            "3984 with 401, 996 with 429"
        )
        audit.refused(Refusal("", 404, "not_found", "alice"))
    assert caplog.records[-1].getMessage() == "a request of alice: refused with 404 (not_found)"
