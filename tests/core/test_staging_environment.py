"""What tells one engine environment from another, what maps say, and what is kept of a learning."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from warmd.staging import FileSet, is_known, known_program
from warmd.staging.holder.environment import Environment
from warmd.staging.holder.kept import file_of, keep
from warmd.staging.holder.maps import mapped_files

MAPS = b"""\
55d0c0000000-55d0c0001000 r--p 00000000 08:01 17 /usr/bin/python3.11
55d0c0001000-55d0c0002000 r-xp 00001000 08:01 17 /usr/bin/python3.11
7f0000000000-7f0000001000 r--s 00000000 08:01 18 /srv/m/model.safetensors
7f0000001000-7f0000002000 r-xp 00000000 08:01 19 /opt/a b/lib\\012x.so
7f0000002000-7f0000003000 r-xp 00000000 08:01 20 /opt/old.so (deleted)
7f0000003000-7f0000004000 rw-s 00000000 00:01 21 /memfd:pool (deleted)
7f0000004000-7f0000005000 rw-s 00000000 00:01 22 /dev/shm/psm_1
7f0000005000-7f0000006000 rw-p 00000000 00:00 0
7f0000006000-7f0000007000 r-xp 00000000 00:00 0 [vdso]
"""


def test_what_a_process_has_mapped() -> None:
    assert mapped_files(MAPS.splitlines()) == {
        "/usr/bin/python3.11": True,
        "/srv/m/model.safetensors": False,
        "/opt/a b/lib\nx.so": True,
    }


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A venv's layout, on a base of its own; returns its python."""
    base = tmp_path / "base"
    for folder in (base / "bin", base / "lib/python3.11/site-packages", base / "lib/python3.10"):
        folder.mkdir(parents=True)
    (base / "bin/python3.11").write_bytes(b"elf")
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "lib/python3.11/site-packages").mkdir(parents=True)
    (venv / "lib64").symlink_to("lib")
    (venv / "bin/python").symlink_to(base / "bin/python3.11")
    (venv / "pyvenv.cfg").write_text(f"home = {base}/bin\ninclude-system-site-packages = false\n")
    return venv / "bin/python"


def test_a_venv_has_its_own_packages_and_its_bases_library(venv: Path) -> None:
    prefix, base = venv.parent.parent, venv.parents[2] / "base"
    site = prefix / "lib/python3.11/site-packages"
    found = Environment(venv)
    assert found.stdlib == (base / "lib/python3.11",)
    assert found.sites == (site,)
    assert found.interpreter == base / "bin/python3.11"
    assert found.cache_tags == ("cpython-311",)

    source = prefix / "source"
    source.mkdir()
    (site / "__editable__.pth").write_text(f"import nothing\n{source}\n/no/such/folder\n")
    (prefix / "pyvenv.cfg").write_text(f"home={base}/bin\ninclude-system-site-packages=true\n")
    found = Environment(venv)
    assert found.sites == (site, base / "lib/python3.11/site-packages", source)
    plain = Environment(base / "bin/python3.11")
    assert plain.stdlib == (base / "lib/python3.11",)
    assert plain.sites == (base / "lib/python3.11/site-packages",)


def test_what_is_installed_makes_another_environment(venv: Path) -> None:
    site = venv.parent.parent / "lib/python3.11/site-packages"
    names = [Environment(venv).name()]
    (site / "vllm").mkdir()
    (site / "vllm/module.py").write_text("")
    names.append(Environment(venv).name())
    times = site.stat()
    (site / "vllm-0.32.0.dist-info").mkdir()
    os.utime(site, ns=(times.st_atime_ns, times.st_mtime_ns))
    names.append(Environment(venv).name())
    venv.resolve().write_bytes(b"another")
    names.append(Environment(venv).name())
    assert len(set(names)) == len(names)
    assert len({name.partition("-")[0] for name in names}) == 1

    (site / "vllm/module.py").write_text("edited in place")
    assert Environment(venv).name() == names[-1]


def test_what_was_learnt_is_kept_until_the_environment_changes(venv: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert known_program(state, venv) is None
    assert not is_known(state, venv)
    there, link, gone = tmp_path / "b.so", tmp_path / "link.so", tmp_path / "gone.so"
    there.write_bytes(b"12345")
    link.symlink_to(there)
    (tmp_path / "a.pyc").write_bytes(b"123")
    name = Environment(venv).name()
    keep(state / "programs", name, [str(each) for each in (there, link, gone, tmp_path / "a.pyc")])
    assert known_program(state, venv) == FileSet((there, tmp_path / "a.pyc"), 8), "each once"
    assert is_known(state, venv)

    (venv.parent.parent / "lib/python3.11/site-packages/new").mkdir()
    assert known_program(state, venv) is None
    assert not is_known(state, venv)
    keep(state / "programs", Environment(venv).name(), [str(there)])
    assert len(list((state / "programs").iterdir())) == 1, "and the old one is forgotten"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"version": 0, "files": []}', '{"version": 2, "files": [3]}']
)
def test_what_is_no_record_of_ours_is_learnt_anew(venv: Path, tmp_path: Path, text: str) -> None:
    file = file_of(tmp_path / "programs", Environment(venv).name())
    file.parent.mkdir()
    file.write_text(text)
    assert known_program(tmp_path, venv) is None
