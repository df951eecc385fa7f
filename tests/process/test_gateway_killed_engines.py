"""Ten thousand requests while engines are killed: every one has one clear end (issue 8)."""

from __future__ import annotations

import asyncio
import collections
import json
import os
import random
import signal
import time
from dataclasses import dataclass
from enum import StrEnum

import aiohttp
import psutil
from daemon_rig import Daemon, a_daemon, until

REQUESTS = 10_000
CLIENTS = 48
REPLICAS = 3
MAX_WAIT_S = 20.0
KILL_EVERY_S = (0.3, 1.5)
TOKENS = 4
MIB = 1 << 20


class Fate(StrEnum):
    """How a request ended, as its client can tell."""

    ANSWERED = "answered"
    REFUSED = "refused, with a reason"
    TOLD = "broken off, and told so in the stream"
    CUT = "cut off in the middle"
    UNCLEAR = "unclear"


@dataclass
class Ended:
    """One request."""

    fate: Fate
    seconds: float
    said: str = ""


async def one(session: aiohttp.ClientSession, number: int) -> Ended:
    began = time.monotonic()
    stream = number % 2 == 0
    word = f"n{number}"  # the engine says it back, so that everybody sees whose answer it got
    asked = {"messages": [{"role": "user", "content": word}], "max_tokens": TOKENS}
    body = {"model": "m", "stream": stream, **asked}
    try:
        async with session.post("/v1/chat/completions", json=body) as response:
            data = await response.read()
            read = _streamed if stream else _whole
            fate = _refused(response.status, data) or read(data.decode(), word)
    except aiohttp.ClientPayloadError:
        fate, data = Fate.CUT, b""
    except aiohttp.ClientError as error:
        fate, data = Fate.UNCLEAR, repr(error).encode()
    return Ended(fate, time.monotonic() - began, data.decode())


def _refused(status: int, data: bytes) -> Fate | None:
    if status == 200:
        return None
    is_told = status in (502, 503) and json.loads(data)["error"]["message"]
    return Fate.REFUSED if is_told else Fate.UNCLEAR


def _whole(data: str, word: str) -> Fate:
    (choice,) = json.loads(data)["choices"]
    is_its = choice["message"]["content"].split() == [word] * TOKENS
    return Fate.ANSWERED if is_its else Fate.UNCLEAR


def _streamed(data: str, word: str) -> Fate:
    events = [line[6:] for line in data.splitlines() if line.startswith("data: ")]
    if events[-1:] != ["[DONE]"]:
        return Fate.TOLD if events and "error" in json.loads(events[-1]) else Fate.UNCLEAR
    deltas = [each["delta"] for event in events[:-1] for each in json.loads(event)["choices"]]
    said = "".join(delta.get("content") or "" for delta in deltas).split()
    return Fate.ANSWERED if said == [word] * TOKENS else Fate.UNCLEAR


async def crowd(
    daemon: Daemon, chance: random.Random, requests: int = REQUESTS
) -> tuple[list[Ended], int]:
    numbers = iter(range(requests))
    ended: list[Ended] = []
    kills = 0
    # Each client has a connection of its own and keeps it; one that was cut off is made anew.
    async with aiohttp.ClientSession(
        f"http://127.0.0.1:{daemon.port}", connector=aiohttp.TCPConnector(limit=CLIENTS)
    ) as session:

        async def client() -> None:
            for number in numbers:
                end = await one(session, number)
                ended.append(end)

        asking = [asyncio.create_task(client()) for _ in range(CLIENTS)]
        while not all(each.done() for each in asking):
            await asyncio.wait(asking, timeout=chance.uniform(*KILL_EVERY_S))
            up = [r for r in daemon.status["models"]["m"]["replicas"] if r["phase"] == "ready"]
            if up and len(ended) < requests * 0.9:
                os.kill(chance.choice(up)["pid"], signal.SIGKILL)
                kills += 1
        await asyncio.gather(*asking)
    return ended, kills


def test_each_of_10000_requests_has_one_clear_end_while_engines_are_killed() -> None:
    with a_daemon() as daemon:
        daemon.turn(tokens=TOKENS, token_s=0.002)
        daemon.write_config(
            {"m": f'resting = "hot"\nreplicas = {REPLICAS}\nmax_wait = "{MAX_WAIT_S:g}s"'}
        )
        daemon.start()
        for number in range(REPLICAS):
            daemon.wait_for("ready", f"m.{number}")
        # Whatever a process takes once, for so many clients and a killed engine, is taken before.
        asyncio.run(crowd(daemon, random.Random(7), REQUESTS // 4))
        for number in range(REPLICAS):
            daemon.wait_for("ready", f"m.{number}")
        assert daemon.process is not None
        process = psutil.Process(daemon.process.pid)
        before, rss = process.num_fds(), process.memory_info().rss

        ended, kills = asyncio.run(crowd(daemon, random.Random(8)))

        fates = collections.Counter(each.fate for each in ended)
        assert sum(fates.values()) == REQUESTS, fates
        assert not fates[Fate.UNCLEAR], [e.said for e in ended if e.fate is Fate.UNCLEAR][:5]
        assert kills >= 5
        assert fates[Fate.ANSWERED] > 0.9 * REQUESTS, fates
        # A killed engine takes at most what it had in hand; all else waits for another.
        assert REQUESTS - fates[Fate.ANSWERED] <= kills * CLIENTS, fates
        assert max(each.seconds for each in ended) < MAX_WAIT_S + 5
        for number in range(REPLICAS):
            assert daemon.wait_for("ready", f"m.{number}")["in_flight"] == 0
        until(lambda: process.num_fds() <= before + 1, f"descriptors are back at {before}")
        assert process.memory_info().rss - rss < 16 * MIB
