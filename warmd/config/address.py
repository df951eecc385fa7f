"""Where a server listens: `127.0.0.1:8400`, `[::1]:8400`, `localhost:8400`."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

_HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9-]+)*")
_LOCALHOST = frozenset({"127.0.0.1", "::1"})


@dataclass(frozen=True)
class Address:
    """A TCP address to listen on. Port 0 asks the kernel for a free one."""

    host: str  # an IPv6 address stands here without brackets
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `host:port`. Raises `ValueError` with a sentence for the operator."""
        host, colon, port = text.rpartition(":")
        if not colon or not host:
            raise ValueError('must be a host and a port, such as "127.0.0.1:8400"')
        if host == "*":
            raise ValueError(
                'must name an address: "0.0.0.0" is every IPv4 address and "[::]" every IPv6 one'
            )
        if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
            raise ValueError("must end in a port from 0 to 65535, such as :8400")
        bracketed = host.startswith("[") and host.endswith("]")
        bare = host[1:-1] if bracketed else host
        if ":" in bare and not bracketed:
            raise ValueError('must have its IPv6 address in brackets, such as "[::1]:8400"')
        if bracketed or re.fullmatch(r"[0-9.]+", bare):
            try:
                if ipaddress.ip_address(bare).version != (6 if bracketed else 4):
                    raise ValueError(bare)
            except ValueError:
                raise ValueError("has no valid IP address before its port") from None
        elif not _HOST_NAME.fullmatch(bare):
            raise ValueError("has no valid host name before its port")
        return cls(bare, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it. A host name other than localhost: no."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def overlaps(self, other: Address) -> bool:
        """Whether both can't be listened on at once; `0.0.0.0` holds every IPv4 address."""
        if self.port != other.port or self.port == 0:
            return False
        mine, theirs = self._hosts, other._hosts
        if mine & theirs:
            return True
        return any(
            wildcard in some and any((":" in host) == (":" in wildcard) for host in others)
            for wildcard in ("0.0.0.0", "::")  # noqa: S104  compared, not bound
            for some, others in ((mine, theirs), (theirs, mine))
        )

    @property
    def _hosts(self) -> frozenset[str]:
        return _LOCALHOST if self.host == "localhost" else frozenset({self.host})

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
