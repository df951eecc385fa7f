"""Listening sockets that are handed over: taken by name and address, and no connection is lost."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from gateway_rig import Rig, chat, on_uvloop, until

import warmd
from warmd.gateway import Gateway, GatewayError, inherited_sockets

HAND_OVER = """
import os, sys
for place, descriptor in enumerate(sys.argv[3].split()):
    os.dup2(int(descriptor), 3 + place)
os.environ |= {"LISTEN_PID": sys.argv[1] or str(os.getpid()), "LISTEN_FDS": sys.argv[2]}
os.execv(sys.executable, [sys.executable, "-c", sys.argv[4]])
"""
"""What a service manager does between fork and exec."""

TAKE_OVER = """
import os
from warmd.gateway import GatewayError, inherited_sockets
try:
    for name, found in inherited_sockets(os.environ).items():
        print(name, *(s.getsockname()[1] for s in found), any(s.get_inheritable() for s in found))
except GatewayError as error:
    print(error)
print([name for name in os.environ if name.startswith("LISTEN")])
"""


def taken_over(*sockets: socket.socket, names: str, number: str = "", pid: str = "") -> list[str]:
    descriptors = [each.fileno() for each in sockets]
    handed = " ".join(map(str, descriptors))
    done = subprocess.run(
        [sys.executable, "-c", HAND_OVER, pid, number or str(len(sockets)), handed, TAKE_OVER],
        cwd=Path(warmd.__file__).parents[1],
        env={**os.environ, "LISTEN_FDNAMES": names},
        pass_fds=descriptors,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_sockets_are_taken_by_name_and_the_variables_reach_nobody_else() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
        socket.create_server(("127.0.0.1", 0)) as three,
    ):
        ports = [each.getsockname()[1] for each in (one, two, three)]
        assert taken_over(one, two, three, names="gateway:other:gateway") == [
            f"gateway {ports[0]} {ports[2]} False",
            f"other {ports[1]} False",
            "[]",
        ]
        assert taken_over(one, names="") == [f"unknown {ports[0]} False", "[]"]
        assert taken_over(one, names="gateway", pid="1") == ["[]"], "they are for another process"


def test_what_is_no_listening_socket_is_explained() -> None:
    with socket.socket() as deaf:
        (said, left) = taken_over(deaf, names="gateway")
        assert said.startswith("Descriptor 3 (gateway) was handed over as a listening socket and")
        assert left == "[]"
        assert "LISTEN_FDS is 'x' and must be" in taken_over(deaf, names="", number="x")[0]


def test_without_a_service_manager_there_are_none() -> None:
    assert inherited_sockets({}) == {}


@on_uvloop
async def test_a_socket_that_the_config_does_not_name_is_refused(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        again = Gateway(rig.models, rig._limits, rig.records.append)
        ready = socket.create_server(("127.0.0.1", 0))
        with pytest.raises(GatewayError, match=r"127.0.0.1:\d+, which is not in"):
            await again.start([("127.0.0.1", 0)], [ready])
        assert ready.fileno() == -1


@on_uvloop
async def test_restarts_on_a_held_socket_lose_no_request(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        with socket.create_server(("127.0.0.1", 0), backlog=512) as held:
            address = held.getsockname()
            answered = 0
            over = False

            async def client() -> None:
                nonlocal answered
                while not over:
                    reader, writer = await asyncio.open_connection(*address)
                    await asyncio.sleep(0)  # time enough to be accepted before it has spoken
                    body = chat()
                    writer.write(
                        b"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nConnection: close\r\n"
                        b"Content-Length: %d\r\n\r\n" % len(body) + body
                    )
                    answer = await reader.read()
                    assert answer.startswith(b"HTTP/1.1 200"), answer
                    answered += 1
                    writer.close()
                    await writer.wait_closed()

            async with asyncio.TaskGroup() as clients:
                for _ in range(8):
                    clients.create_task(client())
                for _ in range(20):
                    enough = answered + 50
                    gateway = Gateway(rig.models, rig._limits, rig.records.append)
                    assert await gateway.start([address], [held.dup()]) == [address]
                    await until(lambda enough=enough: answered >= enough, "requests are answered")  # type: ignore[misc]
                    await gateway.stop_accepting()
                    assert await gateway.drain(5)
                    await gateway.close()
                over = True
                last = Gateway(rig.models, rig._limits, rig.records.append)
                await last.start([address], [held.dup()])
            await last.close()
