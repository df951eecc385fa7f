"""HAProxy's agent-check: the line, what bounds who asks, and a real HAProxy steered by it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from daemon_rig import PATIENCE_S, Answer, Daemon, a_daemon, until
from haproxy_rig import an_haproxy


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def begin(daemon: Daemon, resting: str) -> int:
    """Start it with the model `m`; return the port of its agent-check."""
    port = free_port()
    agent_check = f'agent_check = ["127.0.0.1:{port}"]'
    daemon.write_config({"m": f'resting = "{resting}"'}, gateway=agent_check)
    daemon.start()
    return port


@pytest.fixture
def warm() -> Iterator[Daemon]:
    with a_daemon() as found:
        yield found


@pytest.fixture
def cold() -> Iterator[Daemon]:
    with a_daemon() as found:
        yield found


def ask(port: int, said: bytes = b"") -> bytes:
    """Return all that is answered: nothing, where the connection is cut."""
    answer = b""
    asking = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
    with asking, suppress(ConnectionError):
        asking.sendall(said)
        while part := asking.recv(4096):
            answer += part
    return answer


def chat(port: int) -> Answer:
    return Daemon(Path(), port=port).chat(patience=PATIENCE_S)


def get(port: int, path: str) -> Answer:
    return Daemon(Path(), port=port).get(path)


def test_haproxy_sends_the_first_request_to_the_box_that_is_hot_and_the_next_where_one_is_left(
    warm: Daemon, cold: Daemon
) -> None:
    ports = {"cold": begin(cold, "cold"), "warm": begin(warm, "hot")}
    warm.wait_for("ready")
    ways = {"cold": (cold.port, ports["cold"]), "warm": (warm.port, ports["warm"])}
    with an_haproxy(cold.folder, free_port(), "m", ways) as haproxy:
        steered = {"cold": ("UP", 1), "warm": ("UP", 100)}
        until(lambda: haproxy.servers() == steered, f"HAProxy has heard: {haproxy.servers()}")
        for _ in range(5):
            assert chat(haproxy.port).status == 200
        assert cold.status["models"]["m"]["rung"] != "hot"
        assert cold.record() == []

        # What an operator of HAProxy sets stays, though the agent goes on saying `up`.
        haproxy.say("set server m/cold state maint")
        time.sleep(0.6)
        assert haproxy.servers()["cold"][0] == "MAINT"
        haproxy.say("set server m/cold state ready")
        until(lambda: haproxy.servers() == steered, "HAProxy asks both again")

        warm.set("m", "cold")
        until(lambda: haproxy.servers()["warm"][0] == "DOWN (agent)", "nobody is sent there")
        warm.set("m", "auto")
        warm.wait_for("ready")
        until(lambda: haproxy.servers() == steered, "it is taken back")

        warm.stop()
        until(lambda: haproxy.servers()["warm"][0].startswith("DOWN"), "HAProxy sees it go")
        assert chat(haproxy.port).status == 200  # held until the other box is hot
        cold.wait_for_rung("hot")
        until(lambda: haproxy.servers()["cold"] == ("UP", 100), "which HAProxy hears")


def test_who_asks_gets_one_line_whatever_it_says_and_probes_need_no_key(
    warm: Daemon,
) -> None:
    daemon = warm
    port = begin(daemon, "hot")
    daemon.wait_for("ready")
    assert ask(port, b"m\n") == b"up 100%\n"
    assert ask(port, b"m") == b"up 100%\n"  # without its end it is waited for, for a moment
    assert ask(port) == b"up 100%\n"
    assert ask(port, b"x\nand more\n").startswith(b"down # there is no model x here")
    assert ask(port, b"x" * 4096) == b""
    # Beyond so many at a time nobody is heard, and those who were there before still are.
    with ExitStack() as stack:
        many = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE_S))
            for _ in range(64)
        ]
        assert ask(port, b"m\n") == b""
        assert {each.recv(100) for each in many} == {b"up 100%\n"}
    assert ask(port, b"m\n") == b"up 100%\n"

    assert get(daemon.port, "/healthz").status == 200
    ready = get(daemon.port, "/readyz?model=m")
    assert (ready.status, ready.json["rung"]) == (200, "hot")
    assert get(daemon.port, "/readyz?model=x").status == 404
    daemon.set("m", "cold")
    until(lambda: get(daemon.port, "/readyz?model=m").status == 503, "it answers no more at once")
    assert get(daemon.port, "/v1/models").json["data"][0]["warmd"]["ready"] is False
    assert ask(port, b"m\n").startswith(b"down # an operator set it to cold")
