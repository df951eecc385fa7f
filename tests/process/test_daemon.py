"""The whole daemon over the fake engine: the main job, and the ends of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from daemon_rig import Daemon, a_daemon, until

from warmd.config import Settings
from warmd.rereading import read_anew


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with a_daemon() as made:
        made.turn()
        yield made


def test_cold_to_staged_to_hot_and_one_chat(daemon: Daemon) -> None:
    daemon.write_config({"m": 'aliases = ["gpt-4o"]'})
    daemon.start()
    staged = daemon.wait_for_rung("staged")
    assert staged["staging"] == {"done": 1048578, "total": 1048578, "holding": True, "busy": False}
    answer = daemon.chat("gpt-4o")
    assert (answer.status, answer.json["object"]) == (200, "chat.completion")
    replica = daemon.replica()
    assert (replica["phase"], replica["rung"]) == ("ready", "hot")
    assert psutil.pid_exists(replica["pid"])
    assert set(replica["last_start"]) >= {"program", "imports", "weights", "first-answer"}
    first, second = (json.loads(e["body"]) for e in daemon.record() if e["event"] == "request")
    assert first["messages"][0]["content"] == "Reply with one word: ok", "the warm-up goes first"
    assert second["model"] == "gpt-4o"
    # Once the engine has loaded the weights nobody needs to hold them any more.
    until(lambda: not daemon.status["models"]["m"]["staging"]["holding"], "let go")
    explained = daemon.control("GET", "/explain?model=gpt-4o").json
    assert explained["model"]["rung"] == "hot"
    moves = [(d["from_rung"], d["to_rung"]) for d in explained["decisions"]]
    assert moves == [("staged", "hot"), ("cold", "staged")], "newest first"
    lines = daemon.log.splitlines()
    assert any("m.0  cold -> staged  it rests staged" in line for line in lines)
    assert any("m.0  staged -> hot  in" in line and "1 request waits" in line for line in lines)


def test_many_first_requests_start_one_engine(daemon: Daemon) -> None:
    daemon.turn(seconds={"weights": 0.3})
    daemon.write_config({"m": 'resting = "cold"'})
    daemon.start()
    with ThreadPoolExecutor(20) as clients:
        answers = list(clients.map(lambda _: daemon.chat(), range(20)))
    assert [a.status for a in answers] == [200] * 20
    assert [e["event"] for e in daemon.record()].count("started") == 1


def test_an_orderly_end_leaves_no_process(daemon: Daemon) -> None:
    daemon.turn(children=2, leak=True, ignore_sigterm=True)
    daemon.write_config({"m": 'resting = "hot"'})
    daemon.start()
    daemon.wait_for("ready")
    assert len(daemon.engine_processes()) >= 4
    assert daemon.process is not None
    helpers = psutil.Process(daemon.process.pid).children(recursive=True)
    assert daemon.stop() == 0
    assert daemon.engine_processes() == []
    until(lambda: not any(h.is_running() for h in helpers), "its own helpers have ended")
    assert "stopping: SIGTERM came" in daemon.log
    assert "Traceback" not in daemon.log


def test_a_killed_daemon_leaves_no_process(daemon: Daemon) -> None:
    daemon.turn(children=2, leak=True, ignore_sigterm=True)
    daemon.write_config({"m": 'resting = "hot"'})
    daemon.start()
    daemon.wait_for("ready")
    assert daemon.process is not None
    helpers = psutil.Process(daemon.process.pid).children(recursive=True)
    daemon.stop(signal.SIGKILL)
    until(lambda: not daemon.engine_processes(), "engines have ended", 5)
    until(lambda: not any(h.is_running() for h in helpers), "helpers have ended", 5)
    daemon.start()
    daemon.wait_for("ready")


def test_requests_in_flight_are_finished_at_the_end(daemon: Daemon) -> None:
    daemon.turn(token_s=0.15, tokens=8)
    daemon.write_config({"m": 'resting = "hot"'})
    daemon.start()
    daemon.wait_for("ready")
    with ThreadPoolExecutor(1) as client:
        streaming = client.submit(daemon.chat, stream=True)
        until(lambda: daemon.replica()["in_flight"], "it streams")
        assert daemon.stop() == 0
        answer = streaming.result()
    assert answer.body.endswith(b"data: [DONE]\n\n")


def test_a_client_that_leaves_is_passed_on_to_the_engine(daemon: Daemon) -> None:
    daemon.turn(token_s=0.2, tokens=200)
    daemon.write_config({"m": 'resting = "hot"'})
    daemon.start()
    daemon.wait_for("ready")
    body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": ""}]})
    with socket.create_connection(("127.0.0.1", daemon.port)) as client:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        client.sendall(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 200")
    until(lambda: "aborted" in [e["event"] for e in daemon.record()], "the engine heard", 5)
    until(lambda: daemon.replica()["in_flight"] == 0, "the place is free again")


def test_what_an_operator_sets_holds_over_a_restart(daemon: Daemon) -> None:
    daemon.write_config({"m": 'resting = "hot"'})
    daemon.start()
    daemon.wait_for("ready")
    said = daemon.control("POST", "/set", {"model": "m", "rung": "cold", "for": None})
    assert said.status == 200
    daemon.wait_for("down")
    refused = daemon.chat()
    assert refused.status == 503
    assert "m is kept cold: an operator set it to cold" in refused.json["error"]["message"]
    daemon.stop()
    daemon.start()
    assert daemon.status["models"]["m"]["target"] == "cold"
    assert daemon.control("POST", "/set", {"model": "m", "rung": "auto"}).status == 200
    daemon.wait_for("ready")


def test_a_reload_restarts_what_changed_and_nothing_else(daemon: Daemon) -> None:
    for name in ("a", "b", "c"):
        daemon.turn(name)
    daemon.write_config({"a": 'resting = "hot"', "b": 'resting = "hot"'})
    daemon.start()
    pids = [daemon.wait_for("ready", f"{name}.0")["pid"] for name in ("a", "b")]
    daemon.write_config({"a": 'restng = "hot"'})
    refused = daemon.control("POST", "/reload", {})
    assert refused.status == 422
    assert "did you mean 'resting'" in refused.json["error"]
    assert "did you mean 'resting'" in daemon.control("POST", "/plan", {}).json["error"]
    assert daemon.chat("b").status == 200, "the running config stays in force"
    args = 'resting = "hot"\nargs = ["--max-model-len", "99"]'
    daemon.write_config({"a": args, "c": 'resting = "cold"'}, gateway='max_body = "1MiB"')
    ahead = daemon.control("POST", "/plan", {"config": None}).json
    assert {m["name"]: m["change"] for m in ahead["models"].values()} == {
        "a": "changed",
        "b": "gone",
        "c": "new",
    }
    assert [(s["replica"], s["fate"]) for s in ahead["steps"]] == [
        ("b.0", "stopped"),
        ("a.0", "made-anew"),
    ]
    assert pids == [daemon.replica(f"{name}.0")["pid"] for name in ("a", "b")], "nothing moved"
    told = daemon.control("POST", "/reload", {}).json["changes"]
    assert sorted(told) == [
        "a: args has changed: an engine that runs is drained and made anew",
        "b is gone from the config: it is drained and stopped",
        "c is new",
        "gateway.max_body has changed: that holds from warmd's next start on",
    ]
    until(lambda: daemon.replica("a.0")["pid"] not in (pids[0], None), "a is made anew")
    daemon.wait_for("ready", "a.0")
    assert "99" in psutil.Process(daemon.replica("a.0")["pid"]).cmdline()
    assert daemon.chat("b").status == 404
    assert daemon.chat("c").status == 200
    until(lambda: "b" not in daemon.status["models"], "b is forgotten")
    same = daemon.replica("a.0")["pid"]
    daemon.write_config({"a": args, "c": 'resting = "cold"'})
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: "nothing has changed" in daemon.log, "SIGHUP reads it too")
    assert daemon.replica("a.0")["pid"] == same


def test_a_model_that_comes_back_is_as_an_operator_left_it(daemon: Daemon) -> None:
    daemon.turn("other")
    both = {"m": 'resting = "hot"', "other": 'resting = "cold"'}
    daemon.write_config(both)
    daemon.start()
    daemon.wait_for("ready")
    daemon.control("POST", "/set", {"model": "m", "rung": "staged"})
    daemon.write_config({"other": 'resting = "cold"'})
    assert daemon.control("POST", "/reload", {}).status == 200
    until(lambda: "m" not in daemon.status["models"], "m is forgotten")
    daemon.write_config(both)
    assert daemon.control("POST", "/reload", {}).json["changes"] == ["m is new"]
    assert daemon.status["models"]["m"]["reason"] == "an operator set it to staged"


def test_reloads_leak_no_files_and_none_is_heard_at_the_end(daemon: Daemon) -> None:
    daemon.turn(token_s=0.2, tokens=8)
    daemon.write_config({"m": 'resting = "hot"'})
    daemon.start()
    assert daemon.process is not None
    process = psutil.Process(daemon.process.pid)
    daemon.wait_for("ready")
    before = process.num_fds()
    for length in (11, 12, 13):
        daemon.write_config({"m": f'resting = "hot"\nargs = ["--max-model-len", "{length}"]'})
        assert daemon.control("POST", "/reload", {}).status == 200
        _wait_for_line(daemon, f"--max-model-len {length}")
        daemon.wait_for("ready")
    # Once 5 more were open right after a start, on a busy host; why is not known. A leak stays.
    until(lambda: process.num_fds() <= before + 2, "files are closed again")
    with ThreadPoolExecutor(1) as client:
        streaming = client.submit(daemon.chat, stream=True)
        until(lambda: daemon.replica()["in_flight"], "it streams")
        daemon.write_config({"m": 'resting = "cold"', "n": ""})
        daemon.process.send_signal(signal.SIGTERM)
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.process.wait(20) == 0
        assert streaming.result().body.endswith(b"data: [DONE]\n\n")
    assert "Traceback" not in daemon.log


async def test_a_config_that_hangs_is_waited_for_no_longer_than_warmctl_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("warmd.rereading.CONFIG_S", 0.05)
    over = threading.Event()

    def load() -> Settings:
        over.wait()
        return Settings()

    try:
        with pytest.raises(ValueError, match=r"its disk, or that of a folder .* hangs"):
            await read_anew(load)
    finally:
        over.set()


@pytest.mark.parametrize("outlive", ["true", "false"])
def test_a_request_on_a_connection_that_has_just_come_is_served_by_a_daemon_that_stops(
    daemon: Daemon, outlive: str
) -> None:
    daemon.write_config({"m": 'resting = "hot"'})
    outliving = f"[host]\nengines_outlive_daemon = {outlive}"
    daemon.config.write_text(daemon.config.read_text().replace("[host]", outliving))
    daemon.start()
    daemon.wait_for("ready")
    assert daemon.process is not None
    with socket.create_connection(("127.0.0.1", daemon.port)) as client:
        daemon.control("GET", "/status")  # its answer comes from a loop that has taken us in
        daemon.process.send_signal(signal.SIGTERM)
        until(lambda: "stopping: SIGTERM came" in daemon.log, "it stops")
        body = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n"
        client.sendall(head % len(body) + body)
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
    assert daemon.process.wait(20) == 0


def test_a_wait_that_is_too_long_gets_503_with_an_estimate(daemon: Daemon) -> None:
    daemon.turn(hang_at="weights")
    daemon.write_config({"m": 'resting = "cold"'}, gateway='max_wait = "500ms"')
    daemon.start()
    answer = daemon.chat()
    assert answer.status == 503
    assert 1 <= int(answer.headers["Retry-After"]) <= 90
    assert answer.json["error"]["message"] == (
        "m is starting (weights), and how long that takes was never measured yet"
    )


@pytest.mark.parametrize(
    "garbage", [b"\x00\xff garbage", b"[]", b'{"model": 3}', b'{"rung":"hot"}']
)
def test_garbage_for_the_admin_socket_is_refused(daemon: Daemon, garbage: bytes) -> None:
    daemon.write_config({"m": 'resting = "cold"'})
    daemon.start()
    answer = daemon.control("POST", "/set", garbage)
    assert 400 <= answer.status < 500
    assert answer.json["error"]
    assert daemon.status["models"]["m"]["rung"] == "cold"


def test_a_second_daemon_on_the_same_folders_is_refused(daemon: Daemon) -> None:
    daemon.write_config({"m": 'resting = "hot"'})
    daemon.start()
    daemon.wait_for("ready")
    second = _run(daemon)
    assert second.returncode == 69
    assert "another warmd runs on" in second.stderr
    assert daemon.chat().status == 200, "the first one goes on"


def test_a_taken_port_is_said_in_one_sentence(daemon: Daemon) -> None:
    daemon.write_config({"m": 'resting = "cold"'})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", daemon.port))
        taken.listen()
        failed = _run(daemon)
    assert failed.returncode == 69
    assert f":{daemon.port}: the port is taken by " in failed.stderr
    assert f"(process {os.getpid()})" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert len(failed.stderr.strip().splitlines()) <= 2


def test_a_bad_config_ends_with_78(daemon: Daemon) -> None:
    daemon.write_config({"m": 'restng = "cold"'})
    failed = _run(daemon)
    assert failed.returncode == 78
    assert "did you mean 'resting'" in failed.stderr


def test_metrics_tell_of_rungs_requests_and_starts(daemon: Daemon) -> None:
    daemon.write_config({"m": 'resting = "cold"'})
    daemon.start()
    assert daemon.chat().status == 200
    assert daemon.chat("nobody").status == 404
    text = daemon.control("GET", "/metrics").body.decode()
    assert 'warmd_rung{model="m",replica="m.0"} 3.0' in text
    path = "/v1/chat/completions"
    assert f'warmd_requests_total{{code="200",model="m",path="{path}"}} 1.0' in text
    assert 'warmd_first_delay_seconds_count{met="cold",model="m"} 1.0' in text
    assert 'warmd_starts_total{model="m",outcome="ready"} 1.0' in text
    assert 'warmd_start_stage_seconds_count{model="m",stage="imports"} 1.0' in text


def test_the_daemons_own_dealings_with_systemd_do_not_reach_an_engine(daemon: Daemon) -> None:
    daemon.write_config({"m": 'resting = "hot"'})
    os.environ["NOTIFY_SOCKET"] = "/nonexistent"
    try:
        daemon.start()
    finally:
        del os.environ["NOTIFY_SOCKET"]
    engine = psutil.Process(daemon.wait_for("ready")["pid"])
    assert "NOTIFY_SOCKET" not in engine.environ()
    assert os.getsid(engine.pid) == engine.pid, "a session of its own"


def _run(daemon: Daemon) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "warmd", "run", "--config", str(daemon.config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def _wait_for_line(daemon: Daemon, words: str) -> None:
    log = daemon.run_dir / "engines" / "m.0" / "engine.log"
    until(lambda: words in log.read_text(), f"the engine's log says {words}")
