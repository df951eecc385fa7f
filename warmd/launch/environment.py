"""What an engine inherits from the daemon's environment: host facts, never the daemon's own."""

from __future__ import annotations

from collections.abc import Mapping

_INHERITED = frozenset(
    {
        "CUDA_DEVICE_ORDER",
        "CUDA_HOME",
        "CUDA_PATH",
        "CUDA_VISIBLE_DEVICES",
        "CURL_CA_BUNDLE",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HOME",
        "LANG",
        "LANGUAGE",
        "LD_LIBRARY_PATH",
        "LOGNAME",
        "PATH",
        "REQUESTS_CA_BUNDLE",
        "SHELL",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "TMPDIR",
        "TZ",
        "TZDIR",
        "USER",
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
    }
)
_INHERITED_FAMILIES = ("LC_", "NVIDIA_")
_OF_USER = frozenset({"HOME", "LOGNAME", "SHELL", "TMPDIR", "USER"})
_OF_USER_FAMILIES = ("XDG_",)


def clean_environment(inherited: Mapping[str, str], *, own_user: bool = False) -> dict[str, str]:
    """Return what an engine may have of the daemon's environment, by allow-list.

    `own_user`: it runs as a user of its own, whose home and folders are others.
    What systemd gives to the daemon alone is not among it: an engine that holds NOTIFY_SOCKET or
    WATCHDOG_USEC would speak in the daemon's name; see systemd.exec(5).
    """
    found = {
        name: value
        for name, value in inherited.items()
        if name in _INHERITED or name.startswith(_INHERITED_FAMILIES)
    }
    if not own_user:
        return found
    theirs = [n for n in found if n in _OF_USER or n.startswith(_OF_USER_FAMILIES)]
    return {name: value for name, value in found.items() if name not in theirs}
