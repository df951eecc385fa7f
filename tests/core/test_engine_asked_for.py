"""Whether an answer is what was asked for: streams put together, JSON, schemas, expectations."""

from __future__ import annotations

import json

import pytest

from warmd.config import WarmupKind
from warmd.engine import ResponseFormat, WarmupSpec
from warmd.engine.streamed import StreamedAnswer
from warmd.engine.verdict import Answered, Wrong, judge, text_of

CHAT, TEXT = WarmupKind.CHAT, WarmupKind.COMPLETION


def event(**body: object) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def delta(text: str, finish: str | None = None) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}])


END = b"data: [DONE]\n\n"


def test_a_stream_becomes_the_answer_that_it_would_have_been() -> None:
    answer = StreamedAnswer()
    usage = event(choices=[], usage={"completion_tokens": 2})
    # The opening event carries no token; pieces end anywhere.
    wire = delta("") + delta("o") + delta("k", "stop") + usage + END
    for at in range(0, len(wire), 7):
        answer.feed(wire[at : at + 7], float(at))
    first = wire.index(b'"o"') // 7 * 7
    assert answer.first_token_at is not None
    assert first <= answer.first_token_at <= first + 100
    assert text_of(answer.body()) == ("ok", "stop")
    assert judge("chat", 200, answer.body()) == Answered()
    assert json.loads(answer.body())["usage"] == {"completion_tokens": 2}


@pytest.mark.parametrize(
    ("wire", "said"),
    [
        (delta("ok"), "a stream without an end"),
        (END, "an empty list of choices"),
        (delta("") + END, "0 generated tokens"),
        (delta("ok") + event(error={"message": "CUDA error", "code": 500}) + END, "CUDA error"),
        (event(error="out of luck") + END, "out of luck"),
        (b"data: {nonsense\n\n: comment\n\n" + END, "an empty list of choices"),
    ],
)
def test_a_stream_that_is_no_answer(wire: bytes, said: str) -> None:
    answer = StreamedAnswer()
    answer.feed(wire, 1.0)
    verdict = judge("chat", answer.status, answer.body())
    assert isinstance(verdict, Wrong)
    assert said in verdict.reason


def test_a_token_that_shows_no_text_is_one() -> None:
    answer = StreamedAnswer()
    answer.feed(delta("") + delta("", "length") + END, 3.0)
    assert answer.first_token_at == 3.0
    assert judge("chat", answer.status, answer.body()) == Answered()


SCHEMA = {
    "type": "object",
    "required": ["ok"],
    "properties": {"ok": {"type": "boolean"}, "n": {"type": ["integer", "null"]},
                   "of": {"type": "array", "items": {"enum": ["a", "b"]}}, "v": {"const": 1}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "text", "flaw"),
    [
        (None, '{"a": 1}', None),
        (None, "[1]", "no JSON object"),
        (None, '{"a": ', "which is no JSON"),
        (SCHEMA, '{"ok": true, "n": null, "of": ["a"], "v": 1, "more": 2}', None),
        (SCHEMA, "{}", "it has no 'ok'"),
        (SCHEMA, '{"ok": 1}', "'ok' is no boolean"),
        (SCHEMA, '{"ok": true, "n": true}', "'n' is no integer or null"),
        (SCHEMA, '{"ok": true, "n": 2.0}', None),
        (SCHEMA, '{"ok": true, "of": ["a", "c"]}', "'of'[1] is none of its enum"),
        (SCHEMA, '{"ok": true, "v": 2}', "'v' is not its const"),
        (SCHEMA, "7", "it is no object"),
    ],
)
def test_json_that_was_asked_for(
    schema: dict[str, object] | None, text: str, flaw: str | None
) -> None:
    found = ResponseFormat(schema).flaw(text)
    assert found is None if flaw is None else found is not None and flaw in found


def whole(text: str, finish: str = "stop") -> bytes:
    choice = {"message": {"content": text}, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": {"completion_tokens": 1}}).encode()


def test_what_the_answer_must_hold() -> None:
    spec = WarmupSpec("m", "hi", 8, CHAT, 1.0, expect=r"(?i)\bok\b")
    assert spec.flaw(CHAT, whole("It is OK.")) is None
    flaw = spec.flaw(CHAT, whole("token", "length"))
    assert flaw is not None
    assert "'token', which doesn't match warmup.expect" in flaw
    assert "cut off at max_tokens = 8" in flaw
    assert spec.flaw(WarmupKind.EMBEDDING, b"{}") is None


def test_what_is_sent() -> None:
    form = ResponseFormat({"type": "object"})
    spec = WarmupSpec("m", "hi", 8, CHAT, 1.0, temperature=0.5, top_p=0.9, seed=3, form=form)
    path, body = spec.of(CHAT)
    assert path == "/v1/chat/completions"
    assert (body["temperature"], body["top_p"], body["seed"]) == (0.5, 0.9, 3)
    assert body["stream"] is True
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    _, embedding = spec.of(WarmupKind.EMBEDDING)
    assert embedding == {"model": "m", "input": "hi"}
    salts = {WarmupSpec("m", "hi", 8, TEXT, 1.0, anew=True).of(TEXT)[1]["cache_salt"] for _ in "ab"}
    assert len(salts) == 2
