"""The proxies that the gateway is compared with: nginx and Go's, each before the same engine.

Both as cheap as they go: no log, no buffering, connections to the engine kept. Neither knows of
models, keys or a second engine.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench_rig import HERE, BenchError, free_port, popen, until
from disk_limit import TOOLS, tool

NGINX, GO = "nginx", "Go"

_CONFIG = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr error;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000;
  upstream engine {{ server unix:{engine}; keepalive 4096; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Proxy:
    """One that runs: its name, its process, and where it listens."""

    name: str
    pid: int
    way: Sequence[object]


def missing() -> list[str]:
    """Say what isn't there to compare with, and how to come by it."""
    absent = [name for name in ("nginx", "go") if tool(name) is None]
    if not absent:
        return []
    names = " ".join(absent)
    return [f"not compared, as missing here: {names}; `scripts/debian-tools {names}` fetches it"]


@contextmanager
def other_proxies(folder: Path, engine: str) -> Iterator[list[Proxy]]:
    """Those that are here, before the engine that listens on a unix socket; gone afterwards."""
    with ExitStack() as running:
        found = []
        if (nginx := tool("nginx")) is not None:
            port = free_port()
            config = folder / "nginx.conf"
            config.write_text(_CONFIG.format(folder=folder, engine=engine, port=port))
            argv = [nginx, "-p", str(folder), "-e", "stderr", "-c", str(config)]
            found.append(running.enter_context(_running(NGINX, argv, port, folder)))
        if (go := tool("go")) is not None:
            port = free_port()
            argv = [_reverse_proxy(go), f"127.0.0.1:{port}", engine]
            found.append(running.enter_context(_running(GO, argv, port, folder)))
        yield found


@contextmanager
def _running(name: str, argv: Sequence[str], port: int, folder: Path) -> Iterator[Proxy]:
    log = folder / f"{name}.log"
    with log.open("wb") as output, popen(argv, stdout=output, stderr=output) as process:
        try:

            def listens() -> bool:
                if process.poll() is not None:
                    raise BenchError(f"{name} ended at once: {log.read_text()[-500:]}")
                with socket.socket() as asking:
                    return asking.connect_ex(("127.0.0.1", port)) == 0

            until(listens, f"{name} listens")
            yield Proxy(name, process.pid, ("127.0.0.1", port))
        finally:
            process.kill()


def _reverse_proxy(go: str) -> str:
    """Build Go's, once for each state of its source, and return the program."""
    source, program = HERE / "reverse_proxy.go", TOOLS.parent / "reverse-proxy"
    if program.exists() and program.stat().st_mtime > source.stat().st_mtime:
        return str(program)
    program.parent.mkdir(parents=True, exist_ok=True)
    cache = TOOLS.parent / "go-build"
    environment = os.environ | {"CGO_ENABLED": "0", "GOCACHE": str(cache), "GO111MODULE": "off"}
    argv = [go, "build", "-o", str(program), str(source)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"Go can't build its reverse proxy: {done.stderr.strip()[-500:]}")
    return str(program)
