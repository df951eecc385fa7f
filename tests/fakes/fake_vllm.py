"""A FAKE vLLM for tests. It stands in for an engine on a GPU; it computes nothing.

It takes vLLM's command line, prints vLLM's log lines stage by stage, runs a tree of processes where
asked, and serves vLLM's HTTP on a unix socket (or --host and --port). With this folder's `site` in
PYTHONPATH the real command starts it: `python -m vllm.entrypoints.openai.api_server --model ...`.
What goes wrong, and when, is set by the knobs of fake_knobs.py.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import NoReturn

from fake_knobs import Knobs, read_knobs

VERSION = "0.33.0"
_SHOWN = ("VLLM_", "HF_", "NOTIFY_", "CUDA_")
_ORPHAN_LIFE_S = 90.0  # no test leaves anything behind for longer


def say(who: str, where: str, text: str, level: str = "INFO", pid: int | None = None) -> None:
    """Print one line as vLLM's logger does."""
    stamp = time.strftime("%m-%d %H:%M:%S")
    for line in text.split("\n"):
        print(f"({who} pid={pid or os.getpid()}) {level} {stamp} [{where}] {line}", flush=True)


def record(knobs: Knobs, event: str, **facts: object) -> None:
    """Add a line to the file that the test looks at."""
    if knobs.record is not None:
        line = json.dumps({"event": event, "at": time.monotonic(), **facts}) + "\n"
        with Path(knobs.record).open("a") as file:
            file.write(line)


def adapter_name(given: str) -> str:
    """Read one of --lora-modules: `name=path`, or JSON with a name."""
    return str(json.loads(given)["name"]) if given.startswith("{") else given.partition("=")[0]


def parse(argv: list[str], knobs: Knobs) -> argparse.Namespace:
    """Take what the fake needs; refuse what the knobs say."""
    parser = argparse.ArgumentParser(prog="api_server.py", allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--uds")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--enforce-eager", action="store_true")
    parser.add_argument("--max-model-len", type=int, default=2048)
    parser.add_argument("--tensor-parallel-size", type=int, default=1)
    parser.add_argument("--kv-cache-memory-bytes", type=int)
    parser.add_argument("--enable-sleep-mode", action="store_true")
    parser.add_argument("--lora-modules", nargs="+", default=[], type=adapter_name)
    parser.add_argument("--api-key", default=os.environ.get("VLLM_API_KEY"))
    args, unknown = parser.parse_known_args(argv)
    refused = [each for each in unknown if each.partition("=")[0] in knobs.refuse_args]
    if refused:
        parser.error(f"unrecognized arguments: {' '.join(refused)}")
    args.served_model_name = args.served_model_name or [args.model]
    return args


def traceback(who: str, last_line: str) -> None:
    """Log an exception as EngineCore does, then its echo."""
    say(who, "core.py:1510", f"{who} failed to start.", "ERROR")
    for line in (
        "Traceback (most recent call last):",
        '  File "core.py", line 1, in run',
        last_line,
    ):
        say(who, "core.py:1510", line, "ERROR")
    print('Traceback (most recent call last):\n  File "utils.py", line 1431, in wait', flush=True)
    print(
        "RuntimeError: Engine core initialization failed. See root cause above."
        " Failed core proc(s): {'EngineCore': 1}",
        flush=True,
    )


def stage(knobs: Knobs, name: str) -> None:
    """Spend the stage's time, or fail in it, or never leave it."""
    time.sleep(knobs.seconds.get(name, 0.0))
    if knobs.fail_at == name:
        for line in knobs.fail_lines:
            print(line, flush=True)
        if knobs.fail_error is not None:
            traceback("EngineCore", knobs.fail_error)
        sys.exit(knobs.fail_code)
    while knobs.hang_at == name:
        time.sleep(1.0)


def be_a_child(name: str, depth: int, *, deaf: bool = False, clings: bool = False) -> NoReturn:
    """Live as a process of the engine that does nothing, with `depth` more of them below.

    `deaf` ignores SIGTERM; `clings` ends with its parent.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN if deaf else signal.SIG_DFL)
    Path("/proc/self/comm").write_text(name[:15])
    if depth and os.fork() == 0:
        be_a_child("VLLM::Worker_TP0", depth - 1, clings=True)
    parent, end = os.getppid(), float("inf")
    while time.monotonic() < end and not (clings and os.getppid() != parent):
        time.sleep(0.1)
        if os.getppid() != parent:
            end = min(end, time.monotonic() + _ORPHAN_LIFE_S)
    os._exit(0)


def share(knobs: Knobs) -> mmap.mmap | None:
    """Map the segment that the knobs ask for; a leftover of its name fails the start."""
    if knobs.segment is None:
        return None
    path = f"/dev/shm/{knobs.segment}"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        traceback("EngineCore", f"FileExistsError: {error}")
        sys.exit(1)
    os.truncate(fd, mmap.PAGESIZE)
    return mmap.mmap(fd, mmap.PAGESIZE)


def spawn(knobs: Knobs, sock: socket.socket) -> list[int]:
    """Start the processes that the knobs ask for; returns those that the main process ends."""
    if knobs.leak and os.fork() == 0:
        sock.close()
        os.setsid()
        if os.fork() == 0:
            be_a_child("VLLM::Leaked", 0, deaf=True)
        os._exit(0)
    if not knobs.children:
        return []
    pid = os.fork()
    if pid == 0:
        sock.close()
        be_a_child("VLLM::EngineCore", knobs.children - 1)
    return [pid]


def bind(args: argparse.Namespace) -> socket.socket:
    """Take the address at once, as vLLM does; listening comes at the end."""
    if args.uds:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(args.uds)
    else:
        sock = socket.socket(socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((args.host, args.port))
    return sock


def start(args: argparse.Namespace, knobs: Knobs) -> tuple[socket.socket, list[int]]:
    """Go through the stages of a start, with the lines of each."""
    print("INFO: this is the FAKE vLLM of warmd's tests", flush=True)
    say("APIServer", "api_utils.py:347", f"  version {VERSION}  model   {args.model}")
    given = {"uds": args.uds, "model": args.model, "served_model_name": args.served_model_name}
    say("APIServer", "api_utils.py:286", f"non-default args: {given}")
    sock = bind(args)
    stage(knobs, "imports")
    if not Path(args.model).is_dir():
        print('Traceback (most recent call last):\n  File "repo_utils.py", line 301, in x')
        sys.exit(
            "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or"
            f" 'namespace/repo_name': '{args.model}'. Use `repo_type` argument if needed."
        )
    say("APIServer", "model.py:733", "Resolved architecture: Qwen3ForCausalLM")
    mode = "NONE: 0" if args.enforce_eager else "VLLM_COMPILE: 3"
    say(
        "EngineCore",
        "core.py:133",
        f"Initializing a V1 LLM engine (v{VERSION}) with config: model='{args.model}',"
        f" enforce_eager={args.enforce_eager},"
        f" compilation_config={{'mode': <CompilationMode.{mode}>}}",
    )
    if knobs.port_taken:
        traceback(
            "EngineCore",
            "torch.distributed.DistNetworkError: The server socket has failed to listen on any"
            f" local network address. port: {os.environ.get('VLLM_PORT', '29500')}, useIpv6: false,"
            " code: -98, name: EADDRINUSE, message: address already in use",
        )
        sys.exit(1)
    children = spawn(knobs, sock)
    workers = [f"Worker_TP{rank}" for rank in range(args.tensor_parallel_size)]
    say(workers[0], "gpu_model_runner.py:5040", f"Starting to load model {args.model}...")
    print("Loading safetensors checkpoint shards:   0% Completed | 0/1", flush=True)
    stage(knobs, "weights")
    say(workers[0], "default_loader.py:501", "Loading weights took 0.01 seconds")
    for worker in workers:
        say(
            worker,
            "gpu_model_runner.py:5150",
            "Model loading took 0.53 GiB memory and 0.0100 seconds",
        )
    if not args.enforce_eager:
        say(workers[0], "monitor.py:40", "[backbone] Starting torch.compile")
        stage(knobs, "compile")
        say(workers[0], "monitor.py:64", "[backbone] torch.compile took 0.01 s in total")
    fixed = args.kv_cache_memory_bytes
    gib = 1.0 if fixed is None else fixed / 2**30
    if fixed is None:
        say(workers[0], "gpu_worker.py:760", "Available KV cache memory: 1.0 GiB")
    else:
        say(
            workers[0],
            "gpu_worker.py:671",
            f"Initial free memory 9.0 GiB, reserved {gib:.2f} GiB memory for KV Cache as specified"
            " by kv_cache_memory_bytes config and skipped memory profiling.",
        )
    say("EngineCore", "kv_cache_utils.py:2327", f"GPU KV cache size: {int(65536 * gib):,} tokens")
    stage(knobs, "kv-cache")
    if not args.enforce_eager:
        say(
            workers[0],
            "gpu_model_runner.py:6582",
            "Graph capturing finished in 0 secs, took 0.01 GiB",
        )
    if fixed is None:
        say(
            workers[0],
            "gpu_worker.py:1013",
            "Free memory on device (9.0/9.0 GiB) on startup. Desired GPU memory utilization is"
            " (0.9, 8.1 GiB). Actual usage is 0.60 GiB for consumed memory (weights + non-torch),"
            " 0.20 GiB for peak activation, and 0.01 GiB for CUDAGraph memory.",
        )
    say(
        "EngineCore",
        "core.py:402",
        "init engine (profile, create kv cache, warmup model) took 0.01 s",
    )
    address = f"unix:{args.uds}" if args.uds else f"http://{args.host}:{args.port}"
    say("APIServer", "entry.py:140", f"Starting vLLM server on {address}")
    return sock, children


def main() -> None:
    """Start, serve, end."""
    knobs = read_knobs()
    args = parse(sys.argv[1:], knobs)
    shown = {k: v for k, v in os.environ.items() if k.startswith(_SHOWN)}
    record(knobs, "started", pid=os.getpid(), argv=sys.argv[1:], env=shown, cwd=str(Path.cwd()))
    if knobs.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    segment = share(knobs)  # mapped by all who are forked below
    sock, children = start(args, knobs)
    from fake_api import serve  # after the fork of children, and a late import is a quick start

    serve(args, knobs, sock, children)
    for pid in children:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
    if segment is not None:
        os.unlink(f"/dev/shm/{knobs.segment}")
    record(knobs, "ended")


if __name__ == "__main__":
    main()
