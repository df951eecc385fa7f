"""Program files are learnt from a real Python that runs in a venv of its own."""

from __future__ import annotations

import _ctypes
import asyncio
import contextlib
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from warmd.learning import Learner
from warmd.staging import StagingError, is_known, known_program, learn_program

SCRIPT = """
import ctypes, sys, colorsys, used.inner
for path in sys.argv[1:]:
    ctypes.CDLL(path)
print("up", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Engine:
    """What stands for an engine: a process that has imported and mapped something."""

    python: Path
    pid: int
    site: Path
    cache: Path  # of compiled code, which is mapped as well


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    root = tmp_path_factory.mktemp("engine")
    venv.create(root / "venv", symlinks=True)
    python = root / "venv/bin/python"
    site = next((root / "venv/lib").glob("python3.*")) / "site-packages"
    for name in ("used/__init__.py", "used/inner.py", "used/not_imported.py", "unused/inner.py"):
        (site / name).parent.mkdir(exist_ok=True)
        (site / name).write_text("import json\n")
    (site / "unused/data.json").write_text("{}")
    (site / "pip").mkdir(exist_ok=True)
    (site / "pip/extra.json").write_text("{}")
    about = site / "used-1.dist-info"
    about.mkdir()
    for name in ("METADATA", "entry_points.txt", "top_level.txt", "RECORD"):
        (about / name).write_text("x")
    (site / "used/__pycache__").mkdir()
    (site / "used/__pycache__/inner.cpython-27.pyc").write_text("of another interpreter")
    (site / "used/notes.rst").write_text("no part of the program")
    library = _ctypes.__file__  # any shared object will do
    cache = site / "cache"
    cache.mkdir()
    mapped = [site / "used/mapped.so", cache / "kernel.so", root / "short-lived.so"]
    for file in (*mapped, site / "used/not_mapped.so"):
        shutil.copy(library, file)
    with subprocess.Popen(
        [python, "-c", SCRIPT, *mapped],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={},  # where the tests run without writing .pyc files, an engine does write them
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield Engine(python, process.pid, site, cache)
        process.kill()


def list_compiled(source: Path) -> list[Path]:
    tag = sys.implementation.cache_tag
    return list((source.parent / "__pycache__").glob(f"{source.stem}.{tag}.pyc"))


async def test_the_learnt_set_is_what_the_process_uses(engine: Engine, tmp_path: Path) -> None:
    learnt = await learn_program(tmp_path, engine.python, [engine.pid], [engine.cache])
    known = known_program(tmp_path, engine.python)
    assert known is not None
    assert learnt is not None
    assert (learnt.files, learnt.total, learnt.trouble) == (len(known.files), known.total, None)
    assert learnt.by

    files = list(known.files)
    assert files[0] == engine.python.resolve(), "it starts with the interpreter"
    at_site = {
        str(f.relative_to(engine.site)).partition(".")[0]
        for f in files
        if f.is_relative_to(engine.site)
    }
    expected = {"used/__pycache__/__init__", "used/__pycache__/inner", "used/mapped"}
    assert expected <= at_site
    # In RAM because they were just written, where access times don't say better.
    about = {str(f.relative_to(engine.site)) for f in files if ".dist-info" in str(f)}
    assert about <= {"used-1.dist-info/METADATA", "used-1.dist-info/entry_points.txt"}
    assert at_site - expected <= {"used/not_imported", "used-1"}
    assert not [f for f in files if f.suffix == ".py" and list_compiled(f)]
    assert not [f for f in files if f.name == "inner.cpython-27.pyc"]
    assert "libc" in {f.name.partition(".")[0].partition("-")[0] for f in files}
    assert any(f.parent.parent.name == "json" for f in files)
    order = [f.is_relative_to(engine.site) for f in files if f.suffix == ".pyc"]
    assert order == sorted(order), "the standard library first"

    # What was learnt is found by whoever comes later, without a process.
    assert known_program(tmp_path, engine.python) == known


async def test_of_an_engine_that_has_gone_nothing_is_learnt(engine: Engine, tmp_path: Path) -> None:
    beyond_any = 1 << 30
    assert await learn_program(tmp_path, engine.python, [beyond_any]) is None
    assert not is_known(tmp_path, engine.python), "the next start teaches"


async def test_no_more_is_kept_than_was_allowed(engine: Engine, tmp_path: Path) -> None:
    learnt = await learn_program(tmp_path, engine.python, [engine.pid], cap=300_000)
    assert learnt is not None
    assert 0 < learnt.total <= 300_000


async def test_what_can_not_be_kept_is_one_sentence(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "programs").touch()
    with pytest.raises(StagingError, match=r"python can't be learnt: .*programs"):
        await learn_program(tmp_path, engine.python, [engine.pid])


async def test_what_is_told_of_a_learning_names_the_model(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "programs").touch()
    told: asyncio.Queue[str] = asyncio.Queue()
    learner = Learner(tmp_path, told.put_nowait, lambda _model, _kind: None, quiet_s=0)
    learner.came_up("m", engine.pid, engine.python, (), ())
    assert (await asyncio.wait_for(told.get(), 30)).startswith("m: the program files of ")
    await learner.close()


async def test_what_was_kept_and_is_garbage_is_learnt_anew(engine: Engine, tmp_path: Path) -> None:
    await learn_program(tmp_path, engine.python, [engine.pid])
    [file] = (tmp_path / "programs").iterdir()
    assert is_known(tmp_path, engine.python)
    for garbage in ("", r'{"version": 2, "files": ["/a\u0000b"]}'):  # as after a power cut
        file.write_text(garbage)
        assert known_program(tmp_path, engine.python) is None
        assert not is_known(tmp_path, engine.python)


async def test_a_cancelled_learning_leaves_no_process(engine: Engine, tmp_path: Path) -> None:
    task = asyncio.create_task(learn_program(tmp_path, engine.python, [engine.pid]))
    before = set(psutil.Process().children())
    started: set[psutil.Process] = set()
    until = asyncio.get_running_loop().time() + 10
    while not started and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(0.005)
        started = set(psutil.Process().children()) - before
    assert started
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert not any(process.is_running() for process in started)
