"""The canary's judgement: which answers are the same, and what is said of those that aren't."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmd.engine import CanaryAnswer, difference
from warmd.engine.canary import read_answer

BEFORE = CanaryAnswer("0123456789ab", 16, 0.5)


def embedding(vector: list[float]) -> CanaryAnswer:
    return read_answer({"data": [{"embedding": vector}]}, 0.1)


def completion(text: str, ids: list[int] | None) -> CanaryAnswer:
    choice = {"text": text, "token_ids": ids}
    return read_answer({"choices": [choice], "usage": {"completion_tokens": 16}}, 0.5)


@pytest.mark.parametrize(
    ("now", "slowest", "says"),
    [
        (CanaryAnswer("0123456789ab", 16, 0.7), 0.5, None),
        (CanaryAnswer("0123456789ab", 16, 50.0), 0.0, None),  # 0 switches it off
        (
            CanaryAnswer("0123456789ab", 16, 1.1),
            0.5,
            "the canary's answer came at 32 tokens a second and comes now at 14.5, below 50% of it",
        ),
        (
            CanaryAnswer("ba9876543210", 7, 0.5),
            0.0,
            "the canary's answer was 0123456789ab (16 tokens) and is now ba9876543210 (7 tokens)",
        ),
    ],
)
def test_both_answers_or_both_speeds_are_told(
    now: CanaryAnswer, slowest: float, says: str | None
) -> None:
    assert difference(BEFORE, now, slowest) == says


def test_an_embedding_has_no_speed_to_fall_short_of() -> None:
    assert difference(CanaryAnswer("a", 0, 0.001), CanaryAnswer("a", 0, 9.0), 0.9) is None


def test_token_ids_tell_what_the_text_does_not_show() -> None:
    assert completion("", [5, 5]).digest != completion("", [6, 6]).digest
    assert completion("a", None).digest != completion("b", None).digest
    assert completion("a", [1]) == completion("a", [1])
    assert len(completion("a", [1]).digest) == 12


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=64, unique_by=abs))
def test_an_embedding_stands_against_its_scale_and_not_against_a_turn(vector: list[float]) -> None:
    assert embedding([4.0 * x for x in vector]) == embedding(vector)
    if any(vector):
        assert embedding([-x for x in vector]) != embedding(vector)


def test_last_bits_do_not_change_an_embeddings_digest_and_garbage_does() -> None:
    vector = [math.sin(i * i) for i in range(256)]
    jittered = [x * (1 + 1e-6 * (-1) ** i) for i, x in enumerate(vector)]
    assert embedding(jittered).digest == embedding(vector).digest
    garbage = [math.sin(i * i + 1) for i in range(256)]
    assert embedding(garbage).digest != embedding(vector).digest
    assert embedding([0.0] * 256).digest != embedding(vector).digest


def test_an_answer_outlives_the_daemon_as_json() -> None:
    assert CanaryAnswer.from_json(json.loads(json.dumps(BEFORE.to_json()))) == BEFORE
    for wrong in ({}, {"digest": 1, "tokens": 1, "seconds": 1.0}, {"digest": "a", "tokens": 1}):
        with pytest.raises(ValueError, match="is no canary's answer"):
            CanaryAnswer.from_json(wrong)
