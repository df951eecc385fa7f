from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmd.gateway.errors import RefusedError
from warmd.gateway.naming import read
from warmd.gateway.paths import ModelIn

FORM = "multipart/form-data; boundary=XX"


@given(
    st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.none())), st.text(min_size=1)
)
def test_name_is_found_whatever_stands_around_it(more: dict[str, object], name: str) -> None:
    body = json.dumps({**more, "model": name}).encode()
    assert read(body, ModelIn.JSON, "").model == name
    assert read(bytearray(body), ModelIn.JSON, "").model == name


@given(st.binary(max_size=60))
def test_any_bytes_are_a_name_or_a_refusal(body: bytes) -> None:
    for where in ModelIn:
        try:
            read(body, where, FORM)
        except RefusedError as refused:
            assert refused.status == 400  # noqa: PT017


@given(
    st.binary().filter(lambda data: b"--XX" not in data),
    st.from_regex(r"[a-z/._-]+", fullmatch=True),
)
def test_form_field(file: bytes, name: str) -> None:
    parts = [
        b'Content-Disposition: form-data; name="file"; filename="name=model"\r\n'
        b"Content-Type: audio/wav\r\n\r\n" + file,
        b"content-disposition: form-data; name=model\r\n\r\n" + name.encode(),
    ]
    body = b"".join(b"--XX\r\n" + part + b"\r\n" for part in parts) + b"--XX--\r\n"
    for content_type in (FORM, 'Multipart/Form-Data; charset=utf-8; Boundary="XX"'):
        assert read(body, ModelIn.FORM, content_type).model == name
    assert read(b"preamble\r\n" + body, ModelIn.FORM, FORM).model == name
    without = body.replace(b"name=model\r\n", b"name=other\r\n")
    assert read(without, ModelIn.FORM, FORM).model is None


@pytest.mark.parametrize(
    "content_type",
    ["", "application/json", "multipart/form-data", "multipart/form-data; boundary="],
)
def test_form_without_a_boundary(content_type: str) -> None:
    with pytest.raises(RefusedError, match="boundary"):
        read(b"--XX\r\n\r\n\r\n--XX--", ModelIn.FORM, content_type)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"[" * (32 << 20), ModelIn.JSON),
        (b"[" + b"[]," * (10 << 20) + b"[]]", ModelIn.JSON),
        (b'{"a":' * (6 << 20), ModelIn.JSON),
        (b"--XX\r\n\r\n" + b"\r\n--XX\r\n\r\n" * (3 << 20), ModelIn.FORM),
        (b"--XX\r\n" + b"content-disposition: ;" * (1 << 20), ModelIn.FORM),
    ],
)
def test_worst_body_does_not_stop_the_loop_for_long(body: bytes, where: ModelIn) -> None:
    before = time.process_time()
    try:
        assert read(body, where, FORM).model is None
    except RefusedError as refused:
        assert refused.status in (400, 413)  # noqa: PT017
    assert time.process_time() - before < 0.5
