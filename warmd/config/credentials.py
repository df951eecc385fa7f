"""Files that are named by their path, or as a credential that systemd hands over."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from warmd.config.engine_args import no_nul

FOLDER = "CREDENTIALS_DIRECTORY"
_CREDENTIALS = Path("/run/credentials")


def file_named(name: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the file for a path, or for the name of a credential (systemd.exec(5)).

    Outside the service there are no credentials; the path then says where one was looked for.
    """
    if "/" in name:
        return Path(name)
    return Path(environ.get(FOLDER) or "/run/credentials/warmd.service") / name


def is_given(name: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process has the credential `name`, or may at least look at the service's."""
    if FOLDER in environ:
        return True
    try:
        return file_named(name, environ).exists()
    except PermissionError:
        return False


def is_of_others(path: Path, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether `path` is a service's credential that is there for that service's eyes alone."""
    if FOLDER in environ or not path.is_relative_to(_CREDENTIALS):
        return False
    try:
        path.open("rb").close()
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def is_credential(path: Path) -> bool:
    """Whether `path` is where systemd puts a service's credentials."""
    return path.is_relative_to(_CREDENTIALS)


def not_handed_over(path: Path) -> str:
    """Say what to do where a service lacks a credential: no permission of a file helps there."""
    return (
        f"systemd hands no credential {path.name} to this process: as root `systemctl edit "
        f"{path.parent.name}`, write LoadCredential={path.name}:/WHERE/IT/IS below [Service], and "
        "restart it"
    )


def _pem_file(name: str) -> str:
    if "/" in no_nul(name) and not name.startswith("/"):
        raise ValueError(
            "must be a whole path on this host, beginning with /, or the name of a credential of "
            "systemd, which has no /"
        )
    if not name.strip() or name in (".", ".."):
        raise ValueError("must not be empty: write the path of a PEM file")
    return name


PemFile = Annotated[str, AfterValidator(_pem_file)]
