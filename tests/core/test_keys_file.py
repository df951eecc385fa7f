"""The file of keys is changed whole or not at all, and what it holds proves nothing but a key."""

from __future__ import annotations

import os
import re
import stat
import threading
from pathlib import Path

import pytest

from warmd.cli.main import main
from warmd.config.keys_file import KeysFileError, add_key, key_names, remove_key
from warmd.gateway import Keys

GROUP = "no-such-group"


def test_a_key_is_made_once_and_opens_the_gateway(tmp_path: Path) -> None:
    file = tmp_path / "api-keys"
    alice, bob = (add_key(file, name, GROUP) for name in ("alice", "bob"))
    assert re.fullmatch(r"sk-warmd-[A-Za-z0-9_-]{43}", alice)
    assert alice != bob
    assert alice not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    keys = Keys(file, pytest.fail)
    assert keys.holder({"Authorization": f"Bearer {alice}"}) == "alice"
    assert keys.holder({"x-api-key": bob}) == "bob"
    with pytest.raises(KeysFileError, match="named alice already"):
        add_key(file, "alice", GROUP)
    remove_key(file, "alice")
    assert key_names(file) == ["bob"]
    with pytest.raises(KeysFileError, match="no key named alice"):
        remove_key(file, "alice")
    with pytest.raises(KeysFileError, match="the key would stay good"):
        remove_key(file, "bob")
    assert [each.name for each in tmp_path.iterdir()] == ["api-keys"]


def test_what_an_operator_wrote_stays(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text(f"# ours\n\nalice@lab: {'A' * 64}  # until May")
    real.chmod(0o604)
    link.symlink_to(real)
    add_key(link, "bob", GROUP)
    assert link.is_symlink()
    assert real.read_text().startswith(f"# ours\n\nalice@lab: {'A' * 64}  # until May\nbob:")
    assert stat.S_IMODE(real.stat().st_mode) == 0o604
    if os.geteuid() == 0:
        os.chown(real, 1234, 4321)
        remove_key(link, "bob")
        assert (real.stat().st_uid, real.stat().st_gid) == (1234, 4321)


@pytest.mark.parametrize("name", ["", "a:b", "a#b", " a", "a\nb", "x" * 65])
def test_names_that_no_line_could_begin_with(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeysFileError, match="the name of a key"):
        add_key(tmp_path / "api-keys", name, GROUP)
    assert not any(tmp_path.iterdir())


def test_a_faulty_file_is_left_alone_and_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "api-keys"
    file.write_text("sk-in-clear\n")
    with pytest.raises(KeysFileError, match=r":1: gateway\.api_keys: must be NAME:SHA256") as told:
        add_key(file, "alice", GROUP)
    assert "sk-in-clear" not in str(told.value)
    assert file.read_text() == "sk-in-clear\n"
    with pytest.raises(KeysFileError, match="there is no such file"):
        key_names(tmp_path / "none")


def test_two_who_add_at_once_both_get_in(tmp_path: Path) -> None:
    file = tmp_path / "api-keys"
    threads = [threading.Thread(target=add_key, args=(file, f"n{n}", GROUP)) for n in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(key_names(file)) == [f"n{n}" for n in range(8)]


def test_the_command_finds_the_file_by_the_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, config = tmp_path / "api-keys", tmp_path / "warmd.toml"
    config.write_text(f'[gateway]\napi_keys = "{file}"\n')
    where = ("--config", str(config))
    assert main(["key", "add", "alice", *where]) == 0
    told = capsys.readouterr()
    key = told.out.strip()
    assert key not in told.err
    assert Keys(file, pytest.fail).holder({"x-api-key": key}) == "alice"
    assert main(["key", "list", *where]) == 0
    assert capsys.readouterr().out == "alice\n"
    assert main(["key", "remove", "alice", *where]) == 1
    assert "add another one first" in capsys.readouterr().err
    config.write_text('[gateway]\napi_keys = "/run/credentials/warmd.service/api-keys"\n')
    assert main(["key", "add", "bob", *where]) == 1
    assert "name the file it is made of with --file" in capsys.readouterr().err
    assert main(["key", "add", "bob", *where, "--file", str(file)]) == 0
    config.write_text("")
    assert main(["key", "list", *where]) == 1
    assert "gateway.api_keys is not set" in capsys.readouterr().err
