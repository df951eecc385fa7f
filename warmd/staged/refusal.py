"""Weights that were hashed and aren't what they shall be: not hashed again until they change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from warmd.staging.proofs import Identity


@dataclass(frozen=True)
class Refusal:
    """Files that aren't what their digests say."""

    files: Identity
    digests: Mapping[Path, str]
    sentence: str
    path: str

    def is_of(self, files: Identity, digests: Mapping[Path, str]) -> bool:
        """Whether nothing has changed since."""
        return self.files == files and self.digests == digests
