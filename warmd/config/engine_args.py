"""Which flags and variables of vLLM a config may not set, because warmd sets them itself."""

from __future__ import annotations

import re

_NAMES = "clients ask for the table's own name and its `aliases`"
_SOCKET = "engines listen on a private socket only, and clients come in through gateway.listen"
_SLEEP = "whether its engines can sleep is set by engine.sleep"
_TLS = "engines speak plain HTTP on a private socket; clients' TLS is set in gateway.tls"

_OWN_FLAGS = {
    "--model": "the folder is the table's `weights`",
    "--served-model-name": _NAMES,
    "--uds": _SOCKET,
    "--host": _SOCKET,
    "--port": _SOCKET,
    "--grpc": _SOCKET,
    "--grpc-port": _SOCKET,
    "--headless": _SOCKET,
    "--api-key": "keys are asked for at the gateway: set gateway.api_keys",
    "--ssl-keyfile": _TLS,
    "--ssl-certfile": _TLS,
    "--ssl-ca-certs": _TLS,
    "--ssl-cert-reqs": _TLS,
    "--ssl-ciphers": _TLS,
    "--enable-ssl-refresh": _TLS,
    "--enable-sleep-mode": _SLEEP,
    "--no-enable-sleep-mode": _SLEEP,
    "--root-path": "the gateway asks engines for paths without a prefix",
    "--config": "a second config file would hide its flags from this check: list them in `args`",
    "--hf-token": "every user can read a command line: set HF_TOKEN in `env`",
}
_MEMORY_FLAGS = (
    *("--gpu-memory-utilization", "--device-memory-utilization", "--kv-cache-memory-bytes"),
    "--num-gpu-blocks-override",
)
_OWN_VARIABLES = {
    "VLLM_API_KEY": _OWN_FLAGS["--api-key"],
    "VLLM_SERVER_DEV_MODE": f"it opens vLLM's development endpoints; {_SLEEP}",
    "NOTIFY_SOCKET": "it is systemd's word to warmd alone",
    "WATCHDOG_USEC": "it is systemd's word to warmd alone",
    "WATCHDOG_PID": "it is systemd's word to warmd alone",
    "LISTEN_FDS": "it is systemd's word to warmd alone",
    "LISTEN_PID": "it is systemd's word to warmd alone",
    "LISTEN_FDNAMES": "it is systemd's word to warmd alone",
}
_FLAG_AND_VALUE = re.compile(r"(--?[A-Za-z][\w.-]*)\s")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def allowed_arg(arg: str) -> str:
    """Return `arg`, or raise `ValueError` if it isn't the config's to set. Shows no flag's value.

    vLLM takes `--served_model_name` for `--served-model-name`, and argparse takes any
    beginning of a flag for the whole, so both are seen through.
    """
    no_nul(arg)
    if match := _FLAG_AND_VALUE.match(arg):
        raise ValueError(f'must be two strings, "{match[1]}" and its value')
    flag = _flag(arg)
    if flag is None:
        return arg
    for own, remedy in _OWN_FLAGS.items():
        if own.startswith(flag):
            meant = "" if own == flag else f", which vLLM reads as {own}"
            raise ValueError(f"must not hold {flag}{meant}: warmd sets it itself; {remedy}")
    return arg


def memory_flag(arg: str) -> str | None:
    """Return the flag that `arg` is if it says how much memory an engine takes, else None."""
    flag = _flag(arg)
    return next((own for own in _MEMORY_FLAGS if flag and own.startswith(flag)), None)


def own_width(args: tuple[str, ...], index: int, tensor_parallel: int) -> str | None:
    """Say what is wrong with an arg that sets among how many GPUs an engine is split, if it does.

    The table's tensor_parallel says that, by which GPUs are reserved.
    """
    flag, _, value = args[index].partition("=")
    if flag.replace("_", "-") not in ("--tensor-parallel-size", "-tp"):
        return None
    value = value or (args[index + 1] if index + 1 < len(args) else "")
    return value if value != str(tensor_parallel) else None


def memory_contradiction(arg: str) -> str | None:
    """Say what is wrong with an arg beside a vram; None where nothing is."""
    if (flag := memory_flag(arg)) is None:
        return None
    return (
        f"contradicts the model's vram, from which {flag} follows at each start: take the flag "
        "away, and set vram to what its engines shall have"
    )


def refuse_args(args: tuple[str, ...], tensor_parallel: int) -> None:
    """Raise `ValueError` where a config refuses these args of a model that has a vram."""
    begins_with_a_flag(args)
    for index, arg in enumerate(args):
        allowed_arg(arg)
        if (why := memory_contradiction(arg)) is not None:
            raise ValueError(why)
        if own_width(args, index, tensor_parallel) is not None:
            raise ValueError("contradicts --tensor-parallel, which says it: take the flag away")


def _flag(arg: str) -> str | None:
    flag = arg.split("=", 1)[0].replace("_", "-")
    return flag if flag.startswith("--") and flag != "--" else None


def begins_with_a_flag(args: tuple[str, ...]) -> tuple[str, ...]:
    """Return `args`; raises `ValueError` where vLLM would take the first for a model's name."""
    if args and not args[0].startswith("-"):
        raise ValueError('must begin with a flag, such as "--max-model-len"')
    return args


def allowed_variable(name: str) -> str:
    """Return an environment variable's name, or raise `ValueError` if it can't be set here."""
    if not _VARIABLE.fullmatch(name):
        raise ValueError("is no name of an environment variable (letters, digits and _)")
    if remedy := _OWN_VARIABLES.get(name):
        raise ValueError(f"must not reach an engine: {remedy}")
    return name


def no_nul(text: str) -> str:
    """Return `text`; raises `ValueError` where exec could not pass it on."""
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    return text
