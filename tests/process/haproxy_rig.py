"""A real HAProxy in front of gateways: installed, or fetched by scripts/debian-tools."""

from __future__ import annotations

import csv
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from daemon_rig import PATIENCE_S, until

_FETCHED = Path(__file__).parents[2] / ".cache" / "tools" / "bin"


def haproxy_program() -> str:
    found = shutil.which("haproxy") or shutil.which("haproxy", path=f"/usr/sbin:{_FETCHED}")
    if found is None:
        why = "no HAProxy here: run `scripts/debian-tools haproxy`"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    return found


@dataclass(frozen=True)
class HAProxy:
    """One that runs. `port`: where clients come in; `admin`: its own socket for operators."""

    port: int
    admin: Path

    def say(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(PATIENCE_S)
            asking.connect(str(self.admin))
            asking.sendall(f"{command}\n".encode())
            answer = bytearray()
            while part := asking.recv(65536):
                answer += part
        return answer.decode()

    def servers(self) -> dict[str, tuple[str, int]]:
        """Each server's status and the weight that is in force."""
        rows = csv.DictReader(self.say("show stat").removeprefix("# ").splitlines())
        return {
            row["svname"]: (row["status"], int(row["weight"]))
            for row in rows
            if row["svname"] not in ("FRONTEND", "BACKEND")
        }


@contextmanager
def an_haproxy(
    folder: Path, port: int, model: str, boxes: Mapping[str, tuple[int, int]]
) -> Iterator[HAProxy]:
    """`boxes`: the ports of gateway and agent-check, by the server's name."""
    servers = "\n".join(
        f"  server {name} 127.0.0.1:{gateway} weight 100 check inter 200ms fall 1 rise 1"
        f' agent-check agent-port {agent} agent-inter 200ms agent-send "{model}\\n"'
        for name, (gateway, agent) in boxes.items()
    )
    admin = folder / "haproxy.sock"
    config = folder / "haproxy.cfg"
    config.write_text(f"""
global
  stats socket {admin} level admin
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  timeout check 2s
frontend clients
  bind 127.0.0.1:{port}
  default_backend {model}
backend {model}
  balance roundrobin
  option httpchk GET /healthz
{servers}
""")
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(
            [haproxy_program(), "-db", "-f", str(config)], stdout=log, stderr=log
        )
    try:
        until(admin.exists, f"HAProxy runs: {(folder / 'haproxy.log').read_text()}")
        yield HAProxy(port, admin)
    finally:
        process.kill()
        process.wait()
