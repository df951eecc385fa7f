"""The whole daemon behind TLS and keys: what a reload changes, and what the log tells."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from certificates import make_pair
from daemon_rig import Daemon, a_daemon, until

from warmd.cli.main import main


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with a_daemon() as made:
        made.turn()
        yield made


def test_keys_limits_tls_and_audit_of_a_daemon_that_runs(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = make_pair(daemon.folder / "tls", "one")
    keys = daemon.folder / "api-keys"
    gateway = f'api_keys = "{keys}"\ntls.certificate = "{pair.certificate}"\ntls.key = "{pair.key}"'
    config = ["--config", str(daemon.config)]
    daemon.write_config({"m": 'resting = "hot"', "n": 'resting = "cold"'}, gateway=gateway)
    assert main(["key", "add", "alice", *config]) == 0
    alice = capsys.readouterr().out.strip()
    daemon.start()
    assert f"https://127.0.0.1:{daemon.port}" in daemon.log
    daemon.wait_for("ready")

    trust = ssl.create_default_context(cafile=str(pair.certificate))

    def ask(key: str, model: str = "m") -> int:
        said = [{"role": "user", "content": "psst"}]
        request = urllib.request.Request(
            f"https://127.0.0.1:{daemon.port}/v1/chat/completions",
            json.dumps({"model": model, "messages": said}).encode(),
            {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, context=trust, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as refused:
            refused.close()
            return refused.code

    assert ask(alice) == 200
    assert ask("sk-guess") == 401
    line = next(each for each in daemon.log.splitlines() if "/v1/chat/completions of alice" in each)
    assert "m.0  /v1/chat/completions of alice: 200 after" in line
    assert "of somebody: refused with 401 (invalid_api_key)" in daemon.log
    assert main(["key", "add", "bob", *config]) == 0
    bob = capsys.readouterr().out.strip()
    until(lambda: ask(bob) == 200, "a new key is taken without a restart")

    daemon.write_config(
        {"m": 'resting = "hot"', "n": 'resting = "cold"'},
        gateway=f'{gateway}\nkeys.bob.models = ["n"]\nkeys.carol.in_flight = 1',
    )
    [told] = daemon.control("POST", "/reload", {}).json["changes"]
    assert told == "gateway.keys.bob, gateway.keys.carol have changed: that holds from now on"
    assert (ask(bob), ask(alice)) == (404, 200)
    checked = subprocess.run(
        [sys.executable, "-m", "warmd", "check-config", *config],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert f"# warning: gateway.keys.carol has no effect: {keys} has no key" in checked.stdout

    # A real client of another make, and a certificate that comes while the daemon runs.
    pair.replace(make_pair(daemon.folder / "new", "two"))
    where = f"127.0.0.1:{daemon.port}"
    command = ["openssl", "s_client", "-connect", where, "-alpn", "h2,http/1.1"]

    def shown() -> str:
        return subprocess.run(
            command, input="", capture_output=True, text=True, timeout=20, check=False
        ).stdout

    until(lambda: "CN = two" in shown(), "the new certificate is shown")
    assert "ALPN protocol: http/1.1" in shown()
    assert alice not in daemon.log
    assert "psst" not in daemon.log
