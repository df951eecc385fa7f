"""Asks the daemon over its control socket, with the standard library: warmctl starts at once."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ANSWER_TIMEOUT_S = 10.0


class NoDaemonError(Exception):
    """Nobody answers. The text is one sentence."""


class RefusedError(Exception):
    """The daemon, or the system, says no. The text is one sentence."""


@contextmanager
def of_this_version() -> Iterator[None]:
    """Read an answer in here; raises `RefusedError` where it lacks what this warmctl looks for."""
    try:
        yield
    except KeyError as missing:
        raise RefusedError(
            f"the daemon's answer has no {missing}: it is of another version than this warmctl; "
            "restart it: systemctl restart warmd"
        ) from missing


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, patience: float) -> None:
        super().__init__("warmd", timeout=patience)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """The daemon behind the unix socket at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, target: str, patience: float = ANSWER_TIMEOUT_S) -> bytes:
        """Return the body of a GET, within `patience` seconds.

        Raises `NoDaemonError` or `RefusedError`.
        """
        return self._ask("GET", target, None, patience)

    def post(self, target: str, body: Mapping[str, object]) -> dict[str, Any]:
        """Return the JSON that answers a POST. Raises `NoDaemonError` or `RefusedError`."""
        return self.parse(self._ask("POST", target, json.dumps(body).encode()))

    def parse(self, body: bytes) -> dict[str, Any]:
        """Read an answer's JSON object. Raises `NoDaemonError`: such an answer is not warmd's."""
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise NoDaemonError(f"what answers at {self._path} is not warmd")
        return answer

    def _ask(
        self, method: str, target: str, body: bytes | None, patience: float = ANSWER_TIMEOUT_S
    ) -> bytes:
        connection = _UnixConnection(self._path, patience)
        try:
            connection.request(method, target, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
        except PermissionError as error:
            raise RefusedError(
                f"you may not open {self._path}: add yourself to the group warmd "
                "(usermod -aG warmd YOU) and log in again"
            ) from error
        except TimeoutError as error:
            raise NoDaemonError(
                f"warmd took the call at {self._path} but gave no answer in "
                f"{patience:.0f} s: see journalctl -u warmd"
            ) from error
        except http.client.HTTPException as error:
            raise NoDaemonError(f"what answers at {self._path} is not warmd") from error
        except OSError as error:
            raise NoDaemonError(
                f"warmd doesn't answer at {self._path} ({error.strerror or error}): "
                "is it running? systemctl status warmd"
            ) from error
        finally:
            connection.close()
        if response.status >= 400:
            raise RefusedError(self._refusal(response.status, answer))
        return answer

    def _refusal(self, status: int, body: bytes) -> str:
        if status == 500:
            return f"warmd failed on this (HTTP {status}), it is a bug: see journalctl -u warmd"
        return str(self.parse(body).get("error", f"warmd refused this (HTTP {status})"))
