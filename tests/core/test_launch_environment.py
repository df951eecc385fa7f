"""What reaches an engine of the daemon's environment."""

from __future__ import annotations

from warmd.launch import clean_environment


def test_host_facts_are_inherited_and_nothing_else() -> None:
    inherited = {
        "PATH": "/usr/bin",
        "LC_TIME": "de_DE.UTF-8",
        "NVIDIA_VISIBLE_DEVICES": "all",
        "CUDA_VISIBLE_DEVICES": "0",
        "PYTHONPATH": "/opt/daemon",
        "VIRTUAL_ENV": "/opt/daemon",
        "LD_PRELOAD": "/usr/lib/libjemalloc.so",
        "HF_TOKEN": "secret",
        "VLLM_USE_V1": "0",
    }
    assert set(clean_environment(inherited)) == {
        "PATH",
        "LC_TIME",
        "NVIDIA_VISIBLE_DEVICES",
        "CUDA_VISIBLE_DEVICES",
    }


def test_what_speaks_in_the_daemons_name_never_passes() -> None:
    systemd = dict.fromkeys(
        (
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
            "WATCHDOG_PID",
            "LISTEN_FDS",
            "LISTEN_FDNAMES",
            "JOURNAL_STREAM",
            "INVOCATION_ID",
            "CREDENTIALS_DIRECTORY",
        ),
        "x",
    )
    assert clean_environment(systemd) == {}
