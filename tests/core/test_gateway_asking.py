"""What a request says of itself to who hands out places: what it begins with, how long it waits."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmd.gateway.errors import RefusedError
from warmd.gateway.patience import max_wait_of
from warmd.gateway.prefix import BEGINNING, prefix_of

FIELDS = st.sampled_from(("messages", "role", "content", "text", "prompt", "input", "system"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | FIELDS, inner),
    max_leaves=12,
)


def said(role: str, content: object) -> dict[str, object]:
    return {"role": role, "content": content}


BE_KIND = said("system", "be kind")


def test_one_system_prompt_is_one_prefix_whoever_goes_on() -> None:
    known = prefix_of({"messages": [BE_KIND, said("user", "hello")]})
    assert known is not None
    for other in (
        {"messages": [BE_KIND, said("user", "bye")], "stream": True},
        {"messages": [BE_KIND]},
        {"messages": [said("developer", [{"type": "text", "text": "be kind"}])]},
        {"messages": [said("user", "x")], "system": "be kind"},
        {"messages": [said("user", "x")], "system": [{"type": "text", "text": "be kind"}]},
        {"input": [said("user", "x")], "instructions": "be kind"},
        {"input": [BE_KIND, said("user", "x")]},
    ):
        assert prefix_of(other) == known
    assert prefix_of({"messages": [said("system", "be rude"), said("user", "hello")]}) != known


def test_without_a_system_prompt_a_conversation_keeps_its_prefix() -> None:
    first = [said("user", "a long story")]
    known = prefix_of({"messages": first})
    assert prefix_of({"messages": [*first, said("assistant", "…"), said("user", "more")]}) == known
    assert prefix_of({"messages": [said("user", "another one")]}) != known


def test_of_a_text_its_beginning_counts() -> None:
    text = "x" * BEGINNING
    assert prefix_of({"prompt": text + "a"}) == prefix_of({"prompt": [text + "b"]})
    assert prefix_of({"prompt": text[1:] + "a"}) != prefix_of({"prompt": text})
    assert prefix_of({"input": "be kind"}) == 37572762, "the same in each process"


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"messages": []},
        {"messages": [7]},
        {"messages": [{}]},
        {"prompt": [1, 2, 3]},
        {"messages": [said("user", [{"type": "image_url", "image_url": {"url": "data:"}}])]},
    ],
)
def test_what_begins_with_no_text_has_no_prefix(document: dict[str, object]) -> None:
    assert prefix_of(document) is None


@given(st.dictionaries(FIELDS, JSON))
def test_any_json_has_a_prefix_or_none(document: dict[str, object]) -> None:
    again = json.loads(json.dumps(document))
    assert prefix_of(document) == prefix_of(again)


@pytest.mark.parametrize(("header", "seconds"), [(None, None), ("30", 30), ("2.5 ", 2.5), ("0", 0)])
def test_a_client_says_how_long_it_waits(header: str | None, seconds: float | None) -> None:
    assert max_wait_of(header) == seconds


@pytest.mark.parametrize("header", ["", "-1", "nan", "inf", "30s", "1e9", "1_0", "٣", "9" * 400])
def test_no_number_of_seconds_is_refused(header: str) -> None:
    with pytest.raises(RefusedError, match="must be a number of seconds") as refused:
        max_wait_of(header)
    assert refused.value.status == 400
