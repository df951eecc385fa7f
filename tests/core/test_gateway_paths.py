from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmd.gateway.errors import Dialect, RefusedError
from warmd.gateway.paths import ENDPOINTS, ModelList, dialect_of, route


def test_the_table() -> None:
    assert len(ENDPOINTS) == 17
    for path, endpoint in ENDPOINTS.items():
        assert route("POST", f"{path}?beta=true") is endpoint
        assert endpoint.path == path
    assert route("GET", "/v1/models?limit=5") == ModelList()
    assert route("GET", "/v1/models/org%2Fa%20b") == ModelList("org/a b")
    assert dialect_of("/v1/messages/count_tokens?x") is Dialect.ANTHROPIC
    assert dialect_of("/v1/messagesx") is Dialect.OPENAI


@given(st.text(), st.sampled_from(sorted(ENDPOINTS)), st.text(min_size=1))
def test_whatever_is_forwarded_is_a_path_of_the_table(before: str, path: str, after: str) -> None:
    for target in (before, before + path, path + after, before + path + after):
        try:
            found: object = route("POST", target)
        except RefusedError as refused:
            found = refused
        match found:
            case RefusedError(status=status, message=message):
                assert status in (404, 405)
                assert message.isascii()
                assert len(message) < 300
            case _:
                assert found is ENDPOINTS[target.partition("?")[0]]


@pytest.mark.parametrize("status", [400, 401, 404, 405, 408, 413, 415, 417, 431, 500, 502, 503])
def test_both_dialects_have_a_type_for_every_status(status: int) -> None:
    refused = RefusedError(status, 'say "no"\n')
    assert b'"type": "' in Dialect.OPENAI.body(refused)
    assert Dialect.ANTHROPIC.body(refused).startswith(b'{"type": "error", "error": {"type": "')
    assert Dialect.OPENAI.event(refused).count(b"\n") == 4
    assert Dialect.ANTHROPIC.event(refused).count(b"\n") == 5
