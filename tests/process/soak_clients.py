"""Clients of a soak: a steady, bounded load, and what became of each request."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_PATHS = ("/v1/chat/completions", "/v1/completions")
_WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "joule")


class Fate(StrEnum):
    """What became of a request."""

    ANSWERED = "answered"
    LEFT = "left by their client"
    REFUSED = "refused with 503"
    LOST = "lost with 502"
    CUT = "cut in the middle"
    RESET = "reset before an answer"
    NO_DAEMON = "met no daemon"
    WRONG = "answered wrongly"
    HUNG = "hung"


@dataclass(frozen=True)
class Outcome:
    """One request, from `began` to `ended` (monotonic seconds)."""

    model: str
    fate: Fate
    began: float
    ended: float
    said: str = ""


class Crowd:
    """So many clients, each with one request after the other. `hang_s`: what counts as hung."""

    def __init__(self, port: int, models: tuple[str, ...], count: int, seed: int, hang_s: float):
        self._port = port
        self._models = models
        self._hang_s = hang_s
        self._stop = threading.Event()
        self.outcomes: list[Outcome] = []
        self._threads = [
            threading.Thread(target=self._live, args=(random.Random(f"{seed} client {number}"),))
            for number in range(count)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Let every client finish its last request."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _live(self, chance: random.Random) -> None:
        while not self._stop.is_set():
            model = chance.choice(self._models)
            began = time.monotonic()
            fate, said = _Visit(self._port, model, chance, self._hang_s).make()
            ended = time.monotonic()
            if ended - began > self._hang_s and fate is not Fate.HUNG:
                fate, said = Fate.HUNG, f"{ended - began:.1f} s until it was {fate}: {said}"
            self.outcomes.append(Outcome(model, fate, began, ended, said))
            self._stop.wait(chance.uniform(0.05, 0.5))


class _Visit:
    """One request and the judgement of its answer."""

    def __init__(self, port: int, model: str, chance: random.Random, patience: float) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience)
        self._path = chance.choice(_PATHS)
        self._words = [*chance.sample(_WORDS, 3), str(chance.randrange(10**6))]
        self._count = chance.randrange(1, 60)
        self._stream = chance.random() < 0.6
        # Some leave at once, some in the middle of a stream.
        self._leaves_after = chance.randrange(0, 5) if chance.random() < 0.15 else None
        asked: dict[str, Any] = {"model": model, "max_tokens": self._count, "stream": self._stream}
        question = " ".join(self._words)
        if self._path == _PATHS[0]:
            asked["messages"] = [{"role": "user", "content": question}]
        else:
            asked["prompt"] = question
        self._body = json.dumps(asked).encode()

    def make(self) -> tuple[Fate, str]:
        """Ask and judge."""
        sent = False
        try:
            self._connection.connect()
            self._connection.request(
                "POST", self._path, self._body, {"Content-Type": "application/json"}
            )
            sent = True
            if self._leaves_after == 0:
                return Fate.LEFT, ""
            response = self._connection.getresponse()
            if response.status != 200:
                return self._refused(response)
            return self._read_stream(response) if self._stream else self._whole(response.read())
        except TimeoutError:
            return Fate.HUNG, "not a byte"
        except http.client.IncompleteRead:
            return Fate.CUT, "its body ended early"
        except OSError as error:
            return (Fate.RESET if sent else Fate.NO_DAEMON), repr(error)
        except http.client.HTTPException as error:
            return Fate.RESET, repr(error)
        finally:
            self._connection.close()

    def _refused(self, response: http.client.HTTPResponse) -> tuple[Fate, str]:
        body = response.read()
        try:
            error = json.loads(body)["error"]
            said, code = str(error["message"]), error["code"]
        except (ValueError, KeyError, TypeError):
            return Fate.WRONG, f"{response.status} without a sentence: {body[:200]!r}"
        match response.status, code:
            case 503, "model_not_ready" if response.headers["Retry-After"] or _given_up(said):
                return Fate.REFUSED, said
            case 502, "engine_lost" if said:
                return Fate.LOST, said
            case _:
                return Fate.WRONG, f"{response.status}: {body[:200]!r}"

    def _whole(self, body: bytes) -> tuple[Fate, str]:
        choice = json.loads(body)["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        return self._judge(text, choice["finish_reason"])

    def _read_stream(self, response: http.client.HTTPResponse) -> tuple[Fate, str]:
        text, finish, events = "", None, 0
        try:
            for line in _lines(response):
                if not line.startswith(b"data: "):
                    continue
                if line == b"data: [DONE]":
                    return self._judge(text, finish)
                event = json.loads(line.removeprefix(b"data: "))
                if "error" in event:
                    return self._cut(text, str(event["error"]["message"]))
                choice = event["choices"][0]
                text += choice["delta"]["content"] if "delta" in choice else choice["text"]
                finish = choice["finish_reason"]
                events += 1
                if events == self._leaves_after:
                    return Fate.LEFT, ""
        except (OSError, ValueError, http.client.HTTPException) as error:
            if isinstance(error, TimeoutError):
                raise
            # Without a last event: the daemon itself was killed.
            fate, _ = self._cut(text, "")
            return (Fate.RESET, repr(error)) if fate is Fate.CUT else (fate, repr(error))
        return Fate.WRONG, f"a half stream that looks whole: {text!r}"

    def _cut(self, text: str, said: str) -> tuple[Fate, str]:
        """A half answer must at least be the right half."""
        if not self._expected.startswith(text):
            return Fate.WRONG, f"{text!r} instead of the beginning of {self._expected!r}"
        return Fate.CUT, said

    def _judge(self, text: str, finish: str | None) -> tuple[Fate, str]:
        if text == self._expected and finish == "length":
            return Fate.ANSWERED, ""
        return Fate.WRONG, f"{text!r} ({finish}) instead of {self._expected!r}"

    @property
    def _expected(self) -> str:
        words = self._words
        return "".join(f"{words[n % len(words)]} " for n in range(self._count))


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield lines as they come; raises where the last chunk is missing, which readline() hides."""
    rest = b""
    while chunk := response.read1(1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines


def _given_up(said: str) -> bool:
    """Whether no time makes the model ready, and none is told."""
    return "needs an operator" in said
