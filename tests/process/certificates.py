"""Certificates of our own, made by openssl(1)."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    certificate: Path
    key: Path

    def replace(self, other: Pair) -> None:
        """Put another pair in the place of this one, file by file, as a renewal does."""
        other.key.replace(self.key)
        other.certificate.replace(self.certificate)


def make_pair(folder: Path, name: str, *, days: int = 30) -> Pair:
    """Make a certificate for 127.0.0.1 whose subject is `name`, signed by itself."""
    folder.mkdir(exist_ok=True)
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-keyout", str(pair.key), "-out", str(pair.certificate), "-subj", f"/CN={name}"),
        *("-days", str(days), "-addext", "subjectAltName=IP:127.0.0.1"),
    )
    return pair


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=20)
