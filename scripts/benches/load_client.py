"""The client of the gateway's benchmark: plain sockets, in a process of its own.

It reads one command a line on stdin, as JSON, does it, and answers with one line on stdout:

    {"do": "turns", "ways": [WAY, ...], "body": TEXT, "seconds": N}
        one request at a time, by each way in turn -> {"first_byte_s": [[SECONDS, ...], ...]}
    {"do": "fan", "way": WAY, "connections": N, "bodies": [TEXT, ...], "seconds": N}
        each connection has one of the bodies, and sends its next request when its answer is whole,
        the last of them begun before the time is up -> {"answers": N, "events": N, "seconds": N}
    {"do": "steady", "way": WAY, "bodies": [TEXT, ...], "per_s": N, "seconds": N}
        requests at a steady rate whatever becomes of them, each on a connection of its own, with
        each body in turn -> {"requests": [{"began": UNIX SECONDS, "first_byte_s": SECONDS or null,
        "failed": WHY or null}, ...]}

A WAY is the path of a unix socket, or [HOST, PORT]. A first byte is timed from just before the
request is written to the return of the first read.
"""

from __future__ import annotations

import gc
import json
import select
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_PATIENCE_S = 30.0
_READ = 1 << 18


class _Reading:
    """An answer, as far as it has come."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._ends_at: int | None = None  # None: chunked
        self._body_at = 0

    def take(self, data: bytes) -> bool:
        """Take more of it; return whether it is whole. Raises `RuntimeError` where it is wrong."""
        if not data:
            raise RuntimeError(f"the connection was closed after {bytes(self._text[-300:])!r}")
        self._text += data
        if not self._body_at and not self._read_head():
            return False
        if self._ends_at is None:
            return self._text.endswith(b"\r\n0\r\n\r\n")
        return len(self._text) >= self._ends_at

    def _read_head(self) -> bool:
        end = self._text.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._text[:end]).lower()
        if not head.startswith(b"http/1.1 200 "):
            raise RuntimeError(f"not answered with 200: {bytes(self._text)!r}")
        self._body_at = end + 4
        at = head.find(b"content-length:")
        if at >= 0:
            self._ends_at = self._body_at + int(head[at + 15 :].split(b"\r\n", 1)[0])
        return True

    @property
    def events(self) -> int:
        """Server-sent events; a proxy's own chunks may begin in the midst of one."""
        if self._ends_at is not None:
            return self._text.count(b"data: ", self._body_at)
        body, at = bytearray(), self._body_at
        while True:
            line_end = self._text.index(b"\r\n", at)
            size = int(self._text[at:line_end], 16)
            if not size:
                return body.count(b"data: ")
            body += self._text[line_end + 2 : line_end + 2 + size]
            at = line_end + size + 4


def connected(way: Any) -> socket.socket:
    """Connect by a WAY."""
    if isinstance(way, str):
        connection = socket.socket(socket.AF_UNIX)
        address: Any = way
    else:
        connection = socket.socket(socket.AF_INET)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        address = tuple(way)
    connection.settimeout(_PATIENCE_S)
    connection.connect(address)
    return connection


def request_of(body: str) -> bytes:
    """Return the whole request with that body."""
    data = body.encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n"
        b"Accept-Encoding: identity\r\nUser-Agent: warmd-bench\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data)
    )


def turns(command: dict[str, Any]) -> dict[str, Any]:
    """Ask by each way in turn, and the other way round in the next round."""
    ways = [connected(way) for way in command["ways"]]
    request = request_of(command["body"])
    took: list[list[float]] = [[] for _ in ways]
    order = list(enumerate(ways))
    end = time.monotonic() + command["seconds"]
    while time.monotonic() < end:
        for index, way in order:
            reading = _Reading()
            began = time.perf_counter_ns()
            way.sendall(request)
            data = way.recv(_READ)
            took[index].append((time.perf_counter_ns() - began) / 1e9)
            while not reading.take(data):
                data = way.recv(_READ)
        order.reverse()
    for way in ways:
        way.close()
    return {"first_byte_s": took}


def fan(command: dict[str, Any]) -> dict[str, Any]:
    """Keep several connections busy."""
    bodies = [request_of(body) for body in command["bodies"]]
    poll = select.epoll()
    requests: dict[int, bytes] = {}
    readings: dict[int, _Reading] = {}
    connections: dict[int, socket.socket] = {}
    for index in range(command["connections"]):
        connection = connected(command["way"])
        connections[connection.fileno()] = connection
        requests[connection.fileno()] = bodies[index % len(bodies)]
        poll.register(connection, select.EPOLLIN)
    began = time.monotonic()
    end = began + command["seconds"]
    for number, connection in connections.items():
        readings[number] = _Reading()
        connection.sendall(requests[number])
    answers = events = 0
    while readings:
        ready = poll.poll(_PATIENCE_S)
        if not ready:
            raise RuntimeError(f"{len(readings)} answers hang, nothing came for {_PATIENCE_S:g} s")
        for number, _ in ready:
            reading = readings[number]
            if not reading.take(connections[number].recv(_READ)):
                continue
            answers += 1
            events += reading.events
            if time.monotonic() < end:
                readings[number] = _Reading()
                connections[number].sendall(requests[number])
            else:
                del readings[number]
    seconds = time.monotonic() - began
    poll.close()
    for connection in connections.values():
        connection.close()
    return {"answers": answers, "events": events, "seconds": seconds}


def steady(command: dict[str, Any]) -> dict[str, Any]:
    """Ask at a steady rate; a failure is an answer like any other here."""
    requests = [request_of(body) for body in command["bodies"]]
    number = round(command["per_s"] * command["seconds"])
    began = time.monotonic()
    with ThreadPoolExecutor(number) as threads:
        asked = []
        for index in range(number):
            time.sleep(max(0.0, began + index / command["per_s"] - time.monotonic()))
            request = requests[index % len(requests)]
            asked.append(threads.submit(_ask_once, command["way"], request))
        return {"requests": [each.result() for each in asked]}


def _ask_once(way: Any, request: bytes) -> dict[str, Any]:
    became: dict[str, Any] = {"began": time.time(), "first_byte_s": None, "failed": None}
    began = time.monotonic()
    try:
        with connected(way) as connection:
            connection.sendall(request)
            reading = _Reading()
            data = connection.recv(_READ)
            became["first_byte_s"] = time.monotonic() - began
            while not reading.take(data):
                data = connection.recv(_READ)
    except (OSError, RuntimeError) as error:
        became["failed"] = f"{type(error).__name__}: {error}"
    return became


def main() -> None:
    """Do what stdin says until it ends."""
    gc.disable()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = {"turns": turns, "fan": fan, "steady": steady}[command["do"]](command)
        except (OSError, RuntimeError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
