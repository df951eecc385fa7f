"""What the quickstart runs: one model on this machine, and the config for it."""

from __future__ import annotations

import grp
import hashlib
import json
import os
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

DEFAULT_PORT = 8400
SOCKET_PATH_MAX = 107  # unix(7)
ENGINE_SOCKET_BYTES = len("/rpc/") + 36  # vLLM's own sockets: a UUID in the engine's folder


class QuickstartError(Exception):
    """It can't go on. The text is one sentence for the person at the terminal."""


@dataclass(frozen=True)
class Setup:
    """What is to be run, and where it keeps its files."""

    root: Path
    home: Path  # everything that a quickstart writes, besides the environments
    engine_python: Path
    weights: Path
    name: str
    tiny: bool
    gpu: bool
    eager: bool
    port: int

    @property
    def run_dir(self) -> Path:
        """A folder for the sockets, short enough for the kernel."""
        inside = self.home / "run"
        longest = len(os.fsencode(inside / "engines" / f"{self.name}.0")) + ENGINE_SOCKET_BYTES
        if longest <= SOCKET_PATH_MAX:
            return inside
        which = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:8]
        base = os.environ.get("XDG_RUNTIME_DIR") or "/tmp"  # noqa: S108  # it is made 0700 and checked
        return Path(base) / f"warmd-quickstart-{os.getuid()}-{which}"

    @property
    def config(self) -> Path:
        """The config file that warmd is started with."""
        return self.home / "warmd.toml"

    @property
    def log(self) -> Path:
        """What warmd prints."""
        return self.home / "warmd.log"

    @property
    def socket(self) -> Path:
        """warmd's control socket."""
        return self.run_dir / "control.sock"

    def short(self, path: Path) -> str:
        """Print `path` as one would type it in the clone."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)


def config_text(setup: Setup) -> str:
    """Write the config of one model on this machine."""
    args = []
    env = {} if setup.gpu else {"VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB
    if setup.tiny:
        args += ["--max-model-len", "1024"]
    if setup.eager:
        args += ["--enforce-eager"]
    lines = [
        "# Written by scripts/quickstart, anew on each run. A start for a config of your own.",
        "[host]",
        f"run_dir = {quoted(setup.run_dir)}",
        f"state_dir = {quoted(setup.home / 'state')}",
        f"cache_dir = {quoted(setup.home / 'cache')}",
        "",
        "[gateway]",
        f'listen = ["127.0.0.1:{setup.port}"]',
        'max_wait = "15m"   # the first request waits for a whole start, however slow the disk',
        "",
        "[metrics]",
        "listen = []",
        "",
        *own_group(),
        "[engine]",
        f"python = {quoted(setup.engine_python)}",
        f"env = {{ {', '.join(f'{key} = {quoted(value)}' for key, value in env.items())} }}",
        "",
        "[restart]",
        "give_up_after = 1   # somebody is watching: say at once what is wrong",
        "",
        f"[models.{setup.name if '.' not in setup.name else quoted(setup.name)}]",
        f"weights = {quoted(setup.weights)}",
        f"args = {json.dumps(args)}",
        # The rest of the card is left to whoever uses it.
        *(['vram = "auto"'] if setup.tiny and setup.gpu else []),
        'resting = "staged"',
        'idle = { after = "5m" }',
    ]
    return "\n".join(lines) + "\n"


def quoted(value: Path | str) -> str:
    """Write a TOML string: JSON's escapes are TOML's too."""
    return json.dumps(str(value), ensure_ascii=False)


def own_group() -> list[str]:
    """Give the control socket to this user's own group: the default one is made by a package."""
    with suppress(KeyError):
        return ["[control]", f"group = {quoted(grp.getgrgid(os.getgid()).gr_name)}", ""]
    return []


def fit_name(weights: Path) -> str:
    """Make a model's name of its folder's; an entry of the Hugging Face cache has its own."""
    folder = weights.name
    if weights.parent.name == "snapshots" and weights.parent.parent.name.startswith("models--"):
        folder = weights.parent.parent.name.split("--")[-1]
    return re.sub(r"[^a-z0-9._-]+", "-", folder.lower()).strip("._-")[:64] or "model"


def free_port(wanted: int | None) -> int:
    """Return `wanted`, or the default or a free one; raises `QuickstartError` if it is taken."""
    for port in (wanted or DEFAULT_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if wanted is not None:
                    raise QuickstartError(
                        f"Port {wanted} can't be used ({error.strerror}): name another with "
                        "--port, or none to have a free one picked."
                    ) from error
                continue
            return int(probe.getsockname()[1])
    raise QuickstartError("No TCP port of this machine is free.")


def private_folder(folder: Path) -> None:
    """Make a folder that only this user may use; raises `QuickstartError` if it is another's."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise QuickstartError(f"The folder {folder} is not yours: remove it, then run this again.")
