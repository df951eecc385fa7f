"""The certificate that clients are shown, from files that may change at any time."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path

from warmd.config.certificate import CertificateError, tls_context, valid_until
from warmd.gateway.errors import GatewayError
from warmd.gateway.keys import FileState, state_of

_LOOK_EVERY_S = 1.0

_States = tuple[FileState | None, FileState | None]


class Certificate:
    """What a listener needs to speak TLS: `context` stays the same while certificates come and go.

    Files that have changed are read at the next handshake, and hold from that one on; connections
    that stand are left alone. A pair that can't be used stays aside, the one before in force, and
    `on_problem` gets one sentence, once for each state. Raises `GatewayError` for the first pair.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path | None,
        on_problem: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._certificate, self._key = certificate, key
        self._on_problem = on_problem
        self._clock, self._wall = clock, wall
        self._seen = self._states()
        self._in_doubt: _States | None = None
        try:
            self._current = self._read()
        except CertificateError as error:
            raise GatewayError(str(error)) from None
        self._look_at = clock() + _LOOK_EVERY_S
        self.context = tls_context(certificate, key)
        # Called at each handshake, also where the client names no server: a whole new context,
        # for a pair that was half loaded into the old one could not be taken back.
        self.context.sni_callback = self._choose

    def _choose(self, client: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        self._look_again()
        client.context = self._current

    def _look_again(self) -> None:
        now = self._clock()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_EVERY_S
        states = self._states()
        if states == self._seen:
            return
        try:
            self._current = self._read()
        except CertificateError as error:
            # Two files are renewed one after the other: what is wrong is told at the second look.
            if self._in_doubt == states:
                self._seen = states
                self._on_problem(f"{error}; the certificate read before stays in force")
            self._in_doubt = states
        else:
            self._seen, self._in_doubt = states, None

    def _read(self) -> ssl.SSLContext:
        fresh = tls_context(self._certificate, self._key)
        if valid_until(self._certificate) < self._wall():
            self._on_problem(
                f"{self._certificate}: gateway.tls.certificate: it has expired, and clients refuse "
                "it: renew it; the new one is taken without a restart"
            )
        return fresh

    def _states(self) -> _States:
        return state_of(self._certificate), None if self._key is None else state_of(self._key)
