"""The format of sha256sum(1), and what it must say of a model's files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmd.staging import StagingError, expected_digests
from warmd.staging.checksums import parse_checksums

ONE, TWO = "1" * 64, "aB" * 32


def test_what_sha256sum_writes_is_read() -> None:
    text = f"{ONE}  a.safetensors\n{TWO} *./sub/b c.bin\r\n\n# made by hand\n\\{ONE}  x\\ny\\\\z\n"
    assert parse_checksums(text) == {
        "a.safetensors": ONE,
        "sub/b c.bin": TWO.lower(),
        "x\ny\\z": ONE,
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{ONE}  a\n{ONE[1:]}  b\n", "line 2 is not"),
        (f"{ONE} a\n", "line 1 is not"),
        (f"{ONE}  /etc/passwd\n", "line 1 names /etc/passwd, outside"),
        (f"{ONE}  a/../../b\n", "outside"),
        (f"{ONE}  a\n{TWO}  ./a\n", "line 2 gives ./a a second digest"),
    ],
)
def test_what_is_no_such_manifest_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_checksums(text)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse_checksums(text)
    except ValueError:
        return
    assert all(len(digest) == 64 for digest in found.values())


def test_every_weight_file_must_be_named(tmp_path: Path) -> None:
    files = [tmp_path / "a.safetensors", tmp_path / "config.json"]
    for file in files:
        file.write_bytes(b"x")
    digest = hashlib.sha256(b"x").hexdigest()
    with pytest.raises(StagingError, match=r"SHA256SUMS: can't be read \(No such file"):
        expected_digests("SHA256SUMS", tmp_path, files)
    (tmp_path / "SHA256SUMS").write_text(f"{digest}  other\n")
    with pytest.raises(StagingError, match=r"names no digest for a\.safetensors"):
        expected_digests("SHA256SUMS", tmp_path, files)
    (tmp_path / "SHA256SUMS").write_text(f"{digest} *a.safetensors\n")
    assert expected_digests("SHA256SUMS", tmp_path, files) == {files[0]: digest}
    (tmp_path / "SHA256SUMS").write_text("download failed\n")
    with pytest.raises(StagingError, match=r"line 1 is not .* make it anew"):
        expected_digests("SHA256SUMS", tmp_path, files)
