"""The commented example says what the code does, and `describe` says what a config comes to."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tomli

from warmd.config import ModelSettings, Settings, describe, load
from warmd.config.settings import TABLES
from warmd.config.table import keys_of

EXAMPLE = Path(__file__).parents[2] / "etc" / "warmd.toml"
MODEL = "qwen3-32b"
TABLES_OF_A_MODEL = ("env", "idle", "warmup", "sleep", "keepalive", "probe", "scale")
HAVE_NO_DEFAULT = {
    "gateway.api_keys",
    "gateway.first_byte_timeout",
    "gateway.silence_timeout",
    "gateway.audit",  # it goes by api_keys
    "gateway.tls",
    "gateway.tls.certificate",
    "gateway.tls.key",
    "gateway.keys",
    "gateway.keys.NAME.models",
    "gateway.keys.NAME.in_flight",
    "gateway.agent_check",  # nobody listens there
    "engine.python",
    "staging.rate",
    "staging.tmpfs",  # it is below run_dir
    "models.NAME.weights",
    "models.NAME.args",
    "models.NAME.aliases",
    "models.NAME.pool",
    "models.NAME.vram",
    "models.NAME.verify",
    "models.NAME.concurrency",
    "models.NAME.warmup.adapters",
    "models.NAME.warmup.seed",
    "models.NAME.warmup.expect",
    "models.NAME.keepalive.every",
    "models.NAME.keepalive.prompt",
    "models.NAME.keepalive.max_tokens",
    "models.NAME.probe.at",
    "models.NAME.timezone",
    "host.timezone",
    "pools.NAME.vram",
}


def uncommented() -> str:
    """The example with every setting in force: `#key` is one, `# text` is prose."""
    return re.sub(r"(?m)^#(?=\S)", "", EXAMPLE.read_text())


@pytest.fixture
def in_force(tmp_path: Path) -> Path:
    """The whole example, pointed at a folder, a program and a key file that exist."""
    weights, python, keys = tmp_path / "weights", tmp_path / "python", tmp_path / "api-keys"
    weights.mkdir()
    (weights / "config.json").touch()
    python.touch(mode=0o755)
    keys.write_text("me:" + "0" * 64)
    text = uncommented()
    for there, here in (
        ("/srv/models/Qwen3-32B", weights),
        ("/opt/vllm/bin/python", python),
        ("/etc/warmd/api-keys", keys),
        ("/etc/warmd/tls.pem", "a-credential-of-others"),
        ("/etc/warmd/tls.key", "another-one"),
    ):
        assert there in text
        text = text.replace(there, str(here))
    file = tmp_path / "warmd.toml"
    file.write_text(text)
    return file


def test_as_it_stands_it_is_the_defaults() -> None:
    settings = load(EXAMPLE)
    assert settings == Settings().read_from((EXAMPLE,))
    assert not settings.models
    assert all(address.is_loopback for address in settings.gateway.listen)


def test_it_shows_every_key_and_explains_it() -> None:
    text = uncommented().replace(f"models.{MODEL}", "models.NAME")
    text = text.replace("pools.heavy", "pools.NAME").replace("calendars.holidays", "calendars.NAME")
    text = text.replace("gateway.keys.alice", "gateway.keys.NAME")
    shown = tomli.loads(text)
    for name, table in TABLES.items():
        there = shown
        for key in name.split(".") if name else []:
            found: Any = there[key]
            there = found[0] if isinstance(found, list) else found
        assert set(there) == set(keys_of(table)), name
    lines = EXAMPLE.read_text().splitlines()
    for above, line in pairwise(lines):
        if re.match(r"#\w+ = ", line) and not above.startswith(("[", "#[")):
            assert above.startswith("# "), f"{line} has no explanation above it"


def test_the_defaults_that_it_names_are_the_defaults(in_force: Path) -> None:
    settings = load(in_force)
    defaults = Settings(models={MODEL: ModelSettings(weights=Path("/w"))})
    resolved, expected = tomli.loads(describe(settings)), tomli.loads(describe(defaults))
    listed = ("windows", "cron", "calendars")
    for name, table in TABLES.items():
        if any(part in listed for part in name.split(".")) or name == "gateway.keys.NAME":
            continue  # what stands in a list, or has a name, has no defaults before it is there
        for key in keys_of(table):
            if (
                key in listed
                or f"{name}.{key}" in HAVE_NO_DEFAULT
                or key in TABLES_OF_A_MODEL
                or key in keys_of(Settings)
            ):
                continue
            path = [*name.replace("NAME", MODEL).split("."), key]
            one, other = resolved, expected
            for part in path[:-1]:
                one, other = one[part], other[part]
            assert one[key] == other[key], f"{name}.{key}"


def test_describe_can_be_loaded_again_and_shows_no_secret(in_force: Path, tmp_path: Path) -> None:
    in_force.write_text(in_force.read_text().replace('"INFO"', '"hf_secret"'))
    settings = load(in_force)
    assert settings.engine.env["VLLM_LOGGING_LEVEL"].get_secret_value() == "hf_secret"
    text = describe(settings)
    assert "hf_secret" not in text + repr(settings) + str(settings)
    assert 'VLLM_LOGGING_LEVEL = "********"' in text
    assert text.startswith(f"# {in_force}\n")

    again = tmp_path / "again.toml"
    again.write_text(text)
    assert describe(load(again)).replace(str(again), str(in_force)) == text
