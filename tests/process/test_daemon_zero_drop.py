"""A daemon whose sockets a service manager keeps: nobody notices that it was restarted or killed.

`StandInManager` stands in for systemd's fd store; tests/systemd asks the real one.
"""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from daemon_rig import PATIENCE_S, Daemon, UnixConnection, a_daemon, until
from manager_stand_in import StandInManager, SteadyClient

OUTLIVES = "engines_outlive_daemon = true"


@pytest.fixture
def manager() -> Iterator[StandInManager]:
    """A daemon under a manager that keeps its sockets; its engine is hot and outlives it."""
    with a_daemon() as daemon:
        daemon.turn("m", token_s=0.005)
        write(daemon)
        manager = StandInManager(daemon)
        manager.start()
        daemon.wait_for("ready")
        yield manager
        manager.close()


def write(daemon: Daemon, gateway: str = "", metrics: str = "[]", host: str = "") -> None:
    daemon.write_config(
        {"m": 'resting = "hot"'}, engine='sleep = "drill"', gateway=gateway, host=OUTLIVES + host
    )
    text = daemon.config.read_text().replace(
        "[metrics]\nlisten = []", f"[metrics]\nlisten = {metrics}"
    )
    daemon.config.write_text(text)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def test_restarts_and_a_kill_lose_no_request(manager: StandInManager) -> None:
    daemon = manager.daemon
    with SteadyClient(daemon) as client:
        for _ in range(4):
            client.more(10)
            assert manager.restart() == 0
        client.more(10)
        with client.between:  # what is under way dies with whoever relays it
            assert manager.restart(signal.SIGKILL) == -signal.SIGKILL
        client.more(10)
    assert client.failed == [], f"of {client.answered}; {daemon.log}"
    assert [each["event"] for each in daemon.record()].count("started") == 1, "one engine for all"
    print(f"{client.answered} requests, 0 failed, worst {client.worst_s:.2f} s")


def test_a_client_on_a_kept_alive_connection_is_answered_or_knows_that_it_was_not_heard(
    manager: StandInManager,
) -> None:
    """RFC 9110, 9.2.2: what a reused connection ended before a byte came may be sent again."""
    body = json.dumps({"model": "m", "messages": []}).encode()
    over, answered, closed, failed = threading.Event(), [0], [0], []

    def ask(connection: http.client.HTTPConnection) -> int:
        connection.request("POST", "/v1/chat/completions", body)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    def client() -> None:
        connection = http.client.HTTPConnection(
            "127.0.0.1", manager.daemon.port, timeout=PATIENCE_S
        )
        while not over.is_set():
            reused = connection.sock is not None
            try:
                status = ask(connection)
            except (http.client.RemoteDisconnected, BrokenPipeError):
                connection.close()
                closed[0] += 1
                if not reused:
                    failed.append("a new connection was closed without a word")
                continue
            except OSError as error:
                failed.append(repr(error))
                connection.close()
                continue
            answered[0] += 1
            if status != 200:
                failed.append(str(status))
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        enough = answered[0] + 100
        until(lambda enough=enough: answered[0] >= enough or failed, "they are answered")  # type: ignore[misc]
        assert manager.restart() == 0
    over.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert failed == [], manager.daemon.log
    print(f"{answered[0]} answered, {closed[0]} found their connection closed")


def test_a_listener_that_the_config_no_longer_names_is_closed_and_not_kept(
    manager: StandInManager,
) -> None:
    daemon, old, scraped = manager.daemon, manager.daemon.port, free_port()
    daemon.port = free_port()
    write(daemon, metrics=f'["127.0.0.1:{scraped}"]')
    manager.restart()
    daemon.wait_until_up()
    assert f"gateway: what an earlier warmd listened on is closed: 127.0.0.1:{old}" in daemon.log
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", old))
    assert sorted(name for name, _ in manager.kept) == [
        "kept-control",
        "kept-gateway",
        "kept-metrics",
    ]
    # The same port, taken in another way: nothing of the old one may be in the way.
    daemon.port = free_port()
    write(daemon, metrics=f'["0.0.0.0:{scraped}"]')
    manager.restart()
    daemon.wait_until_up()
    connection = http.client.HTTPConnection("127.0.0.1", scraped, timeout=PATIENCE_S)
    connection.request("GET", "/metrics")
    assert connection.getresponse().status == 200
    connection.close()


def test_a_load_balancer_that_asks_during_a_restart_is_answered_by_the_next_daemon(
    manager: StandInManager,
) -> None:
    daemon, port = manager.daemon, free_port()
    write(daemon, gateway=f'agent_check = ["127.0.0.1:{port}"]')
    manager.restart()
    daemon.wait_until_up()
    daemon.wait_for("ready")
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)
    daemon.process.wait(PATIENCE_S)
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as asking:
        manager.launch()
        assert asking.recv(100).startswith(b"up ")


def test_an_operator_who_asks_during_a_restart_is_answered_by_the_next_daemon(
    manager: StandInManager,
) -> None:
    daemon = manager.daemon
    first = daemon.status["pid"]
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)
    daemon.process.wait(PATIENCE_S)
    connection = UnixConnection(daemon.run_dir / "control.sock")
    connection.request("GET", "/status")
    manager.launch()
    answer = json.loads(connection.getresponse().read())
    connection.close()
    assert answer["pid"] not in (None, first)
    # A file that was taken away leads to nobody: it is made anew.
    (daemon.run_dir / "control.sock").unlink()
    manager.restart()
    daemon.wait_until_up()
    daemon.wait_for("ready")


def test_streams_under_way_end_well_within_the_drain_and_are_told_beyond_it(
    manager: StandInManager,
) -> None:
    daemon = manager.daemon
    write(daemon, gateway='drain = "1s"')
    manager.restart()
    daemon.wait_until_up()
    daemon.wait_for("ready")
    asked = {"model": "m", "messages": [], "stream": True}
    answers: list[str] = []

    def stream(tokens: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE_S)
        connection.request(
            "POST", "/v1/chat/completions", json.dumps({**asked, "max_tokens": tokens})
        )
        try:
            answers.append(connection.getresponse().read().decode())
        except http.client.IncompleteRead as cut:
            answers.append(cut.partial.decode())
        connection.close()

    threads = [threading.Thread(target=stream, args=(tokens,)) for tokens in (10, 100_000)]
    for thread in threads:
        thread.start()
    until(lambda: daemon.replica()["in_flight"] == 2, "both are under way")
    assert manager.restart() == 0
    for thread in threads:
        thread.join(PATIENCE_S)
    short, long = sorted(answers, key=len)
    assert short.endswith("data: [DONE]\n\n")
    assert '"code": "restarting"' in long
    assert "[DONE]" not in long
    daemon.wait_until_up()
    daemon.wait_for("ready")
    assert daemon.chat().status == 200
    assert [each["event"] for each in daemon.record()].count("started") == 1


def test_who_came_just_before_the_end_and_speaks_late_is_answered(manager: StandInManager) -> None:
    """A host that is out of breath: its request was refused with 503, and the engine was hot."""
    daemon = manager.daemon
    body = json.dumps({"model": "m", "messages": []}).encode()
    with socket.create_connection(("127.0.0.1", daemon.port), PATIENCE_S) as client:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nConnection: close\r\n"
        time.sleep(0.1)  # accepted by now
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        until(lambda: "stopping: SIGTERM came" in daemon.log, "it is ending")
        time.sleep(0.25)
        client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        answer = b""
        while part := client.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert daemon.process.wait(PATIENCE_S) == 0
    manager.start()
    daemon.wait_for("ready")
