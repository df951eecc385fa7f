"""What passes between the daemon, systemd, the journal and warmd-exec, in plain values."""

from __future__ import annotations

import errno
import importlib.machinery
import importlib.util
import json
import os
import signal
from pathlib import Path
from types import ModuleType

import pytest

from warmd.config.run_files import engine_unit
from warmd.devices.processes import engine_unit_of
from warmd.engine import engine_home, prepare_home
from warmd.engine.note import write_note
from warmd.launch import EngineExit, LaunchSpec, clean_environment
from warmd.launch.systemd.entries import UNIT_ENDED, Entry, read_entry
from warmd.launch.systemd.refused import job_failed, refused
from warmd.launch.systemd.start_files import VERSION, as_json, remove_left_behind
from warmd.launch.systemd.start_files import refused as exec_refused
from warmd.launch.systemd.unit_state import UnitState
from warmd.launch.systemd.units import unit_path

SPEC = LaunchSpec("m-1.x.0", ("/opt/vllm/python", "-m", "vllm"), {"KEY": "\udcff ü"}, Path("/run"))
UNIT = engine_unit(SPEC.name)


@pytest.fixture(scope="module")
def warmd_exec() -> ModuleType:
    path = str(Path(__file__).parents[2] / "systemd" / "warmd-exec")
    loader = importlib.machinery.SourceFileLoader("warmd_exec", path)
    spec = importlib.util.spec_from_loader("warmd_exec", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


# A spec


def test_what_the_daemon_writes_warmd_exec_reads(warmd_exec: ModuleType) -> None:
    argv, env, cwd = warmd_exec.read_spec(as_json(SPEC))
    assert (tuple(argv), env, cwd) == (SPEC.argv, SPEC.env, "/run")
    given = {"HOME": "/var/home", "USER": "warmd-engine", "INVOCATION_ID": "x", "LANG": "C"}
    assert warmd_exec.environment(env, given) == {
        **SPEC.env,
        "HOME": "/var/home",
        "USER": "warmd-engine",
    }
    assert warmd_exec.environment({"HOME": "/mine"}, given)["HOME"] == "/mine"


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"version": 1', b"\xff"])
def test_a_spec_that_is_none_is_refused(warmd_exec: ModuleType, text: bytes) -> None:
    with pytest.raises(warmd_exec.RefusalError, match="can't be read"):
        warmd_exec.read_spec(text)


def test_another_version_is_refused_with_what_to_do(warmd_exec: ModuleType) -> None:
    newer = json.dumps({**json.loads(as_json(SPEC)), "version": VERSION + 1}).encode()
    with pytest.raises(warmd_exec.RefusalError, match="systemctl restart warmd") as caught:
        warmd_exec.read_spec(newer)
    said = exec_refused(SPEC, json.dumps(caught.value.told).encode())
    assert said.startswith("m-1.x.0 was not started: ")
    assert "systemctl restart warmd" in said


def test_a_refusal_is_told_with_what_is_shut(warmd_exec: ModuleType) -> None:
    with pytest.raises(warmd_exec.RefusalError) as caught:
        warmd_exec.become(["/nowhere/python"], {}, "/")
    assert caught.value.told == {"stage": "exec", "errno": errno.ENOENT}
    assert "/nowhere/python: No such file" in str(caught.value)
    for told, expected in (
        (caught.value.told, "/opt/vllm/python does not exist"),
        ({"stage": "cwd", "errno": errno.ENOENT}, "working folder /run"),
        ({"stage": "exec", "errno": errno.EACCES, "shut": "/root"}, "may not enter /root"),
        ([], "can't be read"),
    ):
        assert expected in exec_refused(SPEC, json.dumps(told).encode())
    assert "can't be read" in exec_refused(SPEC, b'{"stage": "ex')


# A unit


def test_a_units_path_has_its_name_escaped() -> None:
    assert unit_path(UNIT).rpartition("/")[2] == "warmd_2dengine_40m_2d1_2ex_2e0_2eservice"
    assert unit_path("0a.service").endswith("/_30a_2eservice")


def test_a_unit_that_is_about_to_start_is_not_down() -> None:
    # systemd gives it its new invocation first, and its new state afterwards.
    failed = UnitState().heard({"ActiveState": "failed", "Job": (0, "/"), "ExecMainCode": 2})
    assert failed.is_down
    started = failed.heard({"InvocationID": bytes.fromhex("ab" * 16), "Job": (7, "/job/7")})
    assert started.invocation == "ab" * 16
    assert not started.is_down
    assert not started.heard({"ActiveState": "activating", "Job": (0, "/")}).is_down


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        (1, 0, EngineExit(0, asked_for=True)),
        (1, 3, EngineExit(3, asked_for=True)),
        (2, 9, EngineExit(None, signal.SIGKILL, asked_for=True)),
        (3, 6, EngineExit(None, signal.SIGABRT, asked_for=True)),
        (0, 0, EngineExit(0, asked_for=True)),  # forgotten by systemd, as one that ended well
    ],
)
def test_how_a_main_process_ended(code: int, status: int, expected: EngineExit) -> None:
    state = UnitState().heard({"ExecMainCode": code, "ExecMainStatus": status, "Other": 1})
    assert state.exit(asked_for=True) == expected
    assert state.main_ended == bool(code)


@pytest.mark.parametrize(
    ("why", "has_polkit", "expected"),
    [
        ("org.freedesktop.DBus.Error.AccessDenied", False, "apt install polkitd"),
        ("org.freedesktop.DBus.Error.AccessDenied", True, "50-warmd.rules"),
        ("org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", True, "50-warmd.rules"),
        ("org.freedesktop.systemd1.NoSuchUnit", True, "there is no warmd-engine@.service"),
        ("org.freedesktop.systemd1.UnitMasked", True, "systemctl unmask"),
        ("org.freedesktop.systemd1.BadUnitSetting", True, "drop-ins"),
        ("org.freedesktop.systemd1.ShuttingDown", True, "shutting down"),
        ("org.freedesktop.DBus.Error.Strange", True, "what it said (org.freedesktop.DBus."),
    ],
)
def test_why_systemd_refused(why: str, has_polkit: bool, expected: str) -> None:
    said = refused("start", UNIT, why, "what it said", has_polkit=has_polkit)
    assert said.startswith(f"systemd did not start {UNIT}: ")
    assert expected in said


@pytest.mark.parametrize(
    ("result", "state", "expected"),
    [
        ("failed", {"ExecMainStatus": 217}, "is there a user warmd-engine?"),
        ("failed", {"ExecMainStatus": 226}, "sandbox"),
        ("failed", {"ExecMainStatus": 1}, "status 1"),
        ("failed", {"ExecMainStatus": 0, "Result": "resources"}, "means"),
        ("canceled", {}, "called it off"),
        ("timeout", {}, "too long"),
        ("dependency", {}, "`dependency`"),
    ],
)
def test_why_a_start_came_to_nothing(result: str, state: dict[str, object], expected: str) -> None:
    assert expected in job_failed(UNIT, result, state)


def test_an_orphan_is_known_by_its_unit() -> None:
    v1 = "12:pids:/x\n1:name=systemd:/warmd.slice/warmd-engine.slice/warmd-engine@a-b.0.service\n"
    assert engine_unit_of(v1) == "warmd-engine@a-b.0.service"
    assert engine_unit_of("0::/system.slice/warmd.service\n") is None
    assert engine_unit_of("0::/\n") is None


# The journal


def entry(**fields: object) -> bytes:
    told = {
        "__CURSOR": "s=1",
        "__MONOTONIC_TIMESTAMP": "12500000",
        "_PID": "77",
        "_SYSTEMD_INVOCATION_ID": "abc",
        **fields,
    }
    return json.dumps(told).encode()


@pytest.mark.parametrize(
    ("message", "lines"),
    [
        ("one", ("one",)),
        (" 10%\r 20%\r\r 30%", (" 10%", " 20%", " 30%")),
        (list(b"\x1b[31mred \xff"), ("\x1b[31mred \ufffd",)),
        ([], ()),
        (None, ()),
        (["two", "texts"], ("two", "texts")),
        ("ü" * 20000, ("ü" * 8192,)),
        ([[104, 105], "ho"], ("hi", "ho")),
    ],
)
def test_a_line_of_the_journal(message: object, lines: tuple[str, ...]) -> None:
    cursor, found = read_entry(entry(MESSAGE=message))
    assert cursor == "s=1"
    assert found == Entry("abc", 12.5, lines)


def test_a_line_that_the_journal_has_cut_goes_on() -> None:
    found = read_entry(entry(MESSAGE="x", _LINE_BREAK="line-max"))[1]
    assert found is not None
    assert found.goes_on


def test_systemds_word_of_an_end_is_heard_and_nothing_else_of_it() -> None:
    ended = entry(_PID="1", MESSAGE_ID=UNIT_ENDED[1], INVOCATION_ID="def", MESSAGE="Failed")
    found = read_entry(ended)[1]
    assert found is not None
    assert (found.invocation, found.is_end, found.lines) == ("def", True, ())
    assert read_entry(entry(_PID="1", MESSAGE_ID="other", INVOCATION_ID="def"))[1] is None
    assert read_entry(entry(_SYSTEMD_INVOCATION_ID=None))[1] is None


@pytest.mark.parametrize("line", [b"", b"-- No entries --", b"[]"])
def test_what_is_no_entry_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"Expecting value|no entry"):
        read_entry(line)


# What is shared with engines of another user


def test_an_engine_of_another_user_inherits_nothing_of_the_daemons_own() -> None:
    inherited = {"HOME": "/var/lib/warmd", "USER": "warmd", "XDG_CACHE_HOME": "/x", "TMPDIR": "/t"}
    kept = {"PATH": "/usr/bin", "LC_TIME": "C"}
    assert clean_environment({**inherited, **kept}, own_user=True) == kept
    assert clean_environment({**inherited, **kept}) == {**inherited, **kept}


def test_a_shared_home_is_the_groups_and_holds_nothing_of_the_daemons(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # the whole path is too long for a socket
    run_dir = Path()
    Path("engines").mkdir()
    Path("engines").chmod(0o2750)
    home = engine_home(run_dir, "m.0", is_shared=True)
    for _ in range(2):
        prepare_home(home)
        assert home.folder.stat().st_mode & 0o7777 == 0o2770
        assert home.rpc is not None
        assert home.rpc.stat().st_mode & 0o7777 == 0o2770
    assert home.log is None
    assert home.log_named == "`journalctl -u warmd-engine@m.0.service`"
    assert home.note.parent == run_dir / "engines"
    own = engine_home(run_dir, "n.0")
    prepare_home(own)
    assert own.folder.stat().st_mode & 0o777 == 0o700
    assert own.note.parent == own.folder


def test_a_note_is_nobody_elses_whatever_the_umask(tmp_path: Path) -> None:
    """An engine that could write it would say which process a later daemon takes over."""
    before = os.umask(0o007)
    try:
        for _ in range(2):
            write_note(tmp_path / "m.0.note.json", {"pid": 1})
    finally:
        os.umask(before)
    assert (tmp_path / "m.0.note.json").stat().st_mode & 0o777 == 0o600


def test_a_start_that_its_daemon_was_killed_in_leaves_no_secrets(tmp_path: Path) -> None:
    engines = tmp_path / "engines"
    engines.mkdir()
    os.mkfifo(engines / "m.0.exec")
    for name in ("m.0.json", "m.0.note.json", "n.0.note.json"):
        (engines / name).write_text("{}")
    remove_left_behind(tmp_path)
    left = sorted(each.name for each in engines.iterdir())
    assert left == ["m.0.note.json", "n.0.note.json"]
