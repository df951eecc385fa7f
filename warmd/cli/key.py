"""`warmctl key`: makes, takes away and lists API keys, in the file that the config names."""

from __future__ import annotations

import sys
from pathlib import Path

from warmd.cli.client import RefusedError
from warmd.config import DEFAULT_FILE, ControlSettings, Settings, load_what_is_sound
from warmd.config.keys_file import KeysFileError, add_key, key_names, remove_key

_CREDENTIALS = Path("/run/credentials")


def add(config: Path | None, file: Path | None, name: str) -> None:
    """Make a key for `name` and print it, alone on stdout. Raises `RefusedError`."""
    settings = _settings(config, file)
    group = (settings.control if settings else ControlSettings()).group
    where = _writable(settings, config, file)
    try:
        key = add_key(where, name, group)
    except KeysFileError as error:
        raise RefusedError(str(error)) from None
    print(key, flush=True)
    told = f"{where} has the digest of {name}'s key; the key itself is shown this once"
    print(told, file=sys.stderr)


def remove(config: Path | None, file: Path | None, name: str) -> None:
    """Take the key of `name` away. Raises `RefusedError`."""
    where = _writable(_settings(config, file), config, file)
    try:
        remove_key(where, name)
    except KeysFileError as error:
        raise RefusedError(str(error)) from None
    print(f"{name}'s key is no longer in {where}")


def names(config: Path | None, file: Path | None) -> None:
    """Print the names of the keys. Raises `RefusedError`."""
    try:
        found = key_names(_file(_settings(config, file), config, file))
    except KeysFileError as error:
        raise RefusedError(str(error)) from None
    for name in found:
        print(name)


def _settings(config: Path | None, file: Path | None) -> Settings | None:
    """Read the config, however much of it is wrong: a key can be made before all is in order."""
    if file is not None and config is None and not DEFAULT_FILE.exists():
        return None
    return load_what_is_sound(config)[0]


def _file(settings: Settings | None, config: Path | None, file: Path | None) -> Path:
    named = file or (settings.gateway.api_keys if settings else None)
    if named is None:
        raise RefusedError(
            f"gateway.api_keys is not set in {config or DEFAULT_FILE}: set it, or name a file with "
            "--file"
        )
    return named.absolute()


def _writable(settings: Settings | None, config: Path | None, file: Path | None) -> Path:
    named = _file(settings, config, file)
    if file is None and named.is_relative_to(_CREDENTIALS):
        raise RefusedError(
            f"{named} is systemd's copy of a credential: name the file it is made of with --file "
            "(systemctl cat warmd shows it, after LoadCredential=), then restart warmd"
        )
    return named
