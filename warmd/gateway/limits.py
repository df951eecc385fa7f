"""How much a client may ask of the gateway before its request has reached an engine."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class GatewayLimits:
    """Sizes in bytes, times in seconds."""

    max_body: int = 32 * MIB
    header_timeout: float = 10.0  # from connect, or from a head's first byte, to its last
    body_timeout: float = 60.0  # for the whole body
    max_buffered: int = 256 * MIB  # of all bodies that are held at one time
    stall_timeout: float = 120.0  # how long a client may leave its full socket unread

    connect_timeout: float = 5.0  # to an engine's socket
    first_byte_timeout: float | None = None  # from an engine's request to its first byte of body
    silence_timeout: float | None = None  # between two pieces of a stream
    say_after: float | None = None  # silence before a waiting stream is told how it stands
    say_every: float = 5.0  # and then again

    def __post_init__(self) -> None:
        if self.max_buffered < self.max_body:
            object.__setattr__(self, "max_buffered", self.max_body)
