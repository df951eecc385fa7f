from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from warmd.gateway import GatewayError, Keys


def line(name: str, key: str) -> str:
    return f"{name}:{hashlib.sha256(key.encode()).hexdigest()}\n"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def replace(path: Path, text: str) -> None:
    """As a careful editor does it: a new inode, so that no clock's grain hides the change."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def test_either_header_and_any_case_of_the_scheme(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# people\n\n{line('alice', 'sk-a')} {line('bob', 'sk-ü').upper()}  # him\n")
    keys = Keys(file, pytest.fail)
    assert keys.holder({"Authorization": "Bearer sk-a"}) == "alice"
    assert keys.holder({"Authorization": "bearer  sk-a"}) == "alice"
    assert keys.holder({"x-api-key": "sk-ü"}) == "BOB"
    assert keys.holder({"x-api-key": "sk-a", "Authorization": "Bearer no"}) == "alice"
    for refused in (
        {},
        {"Authorization": "sk-a"},
        {"Authorization": "Basic sk-a"},
        {"Authorization": "Bearer "},
        {"x-api-key": ""},
        {"x-api-key": hashlib.sha256(b"sk-a").hexdigest()},
        {"x-api-key": "\udcff"},
    ):
        assert keys.holder(refused) is None


def test_changed_file_is_read_again_at_most_once_a_second(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(line("alice", "old"))
    clock = Clock()
    keys = Keys(file, pytest.fail, clock)
    replace(file, line("alice", "new"))
    clock.now += 0.9
    assert keys.holder({"x-api-key": "old"}) == "alice"
    clock.now += 0.2
    assert keys.holder({"x-api-key": "old"}) is None
    assert keys.holder({"x-api-key": "new"}) == "alice"


@pytest.mark.parametrize(
    "broken", ["", "# all gone\n", "alice:1234\n", "sk-alice-in-clear\n", None]
)
def test_broken_new_file_keeps_the_old_keys_and_says_so_once(
    tmp_path: Path, broken: str | None
) -> None:
    file = tmp_path / "keys"
    file.write_text(line("alice", "a"))
    said: list[str] = []
    clock = Clock()
    keys = Keys(file, said.append, clock)
    if broken is None:
        file.unlink()
    else:
        replace(file, broken)
    for _ in range(5):
        clock.now += 2
        assert keys.holder({"x-api-key": "a"}) == "alice"
    assert len(said) == 1
    assert str(file) in said[0]
    assert "sk-alice-in-clear" not in said[0]
    replace(file, line("bob", "b"))
    clock.now += 2
    assert keys.holder({"x-api-key": "b"}) == "bob"
    assert keys.holder({"x-api-key": "a"}) is None


def test_change_that_an_editor_hid_behind_the_old_mtime(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(line("alice", "a"))
    old = file.stat()
    clock = Clock()
    keys = Keys(file, pytest.fail, clock)
    file.write_text(line("alice", "b"))
    while file.stat().st_ctime_ns == old.st_ctime_ns:  # the file system's clock has a grain
        os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns))
    os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns))
    clock.now += 2
    assert keys.holder({"x-api-key": "b"}) == "alice"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "holds no key"),
        (b"x\n", ":1: gateway.api_keys: must be"),
        (b"\xff", "not UTF-8"),
        (None, "no such file"),
    ],
)
def test_broken_file_at_the_start_is_one_sentence(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(GatewayError, match=why):
        Keys(file, pytest.fail)
