"""Who may ask the gateway for what, and the certificate that it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, PlainSerializer

from warmd.config.credentials import PemFile, file_named, is_given
from warmd.config.fields import ModelName
from warmd.config.table import Table


class KeySettings(Table):
    """What the holder of one API key may do. None: any model, any number of requests."""

    models: Annotated[tuple[ModelName, ...], Field(strict=False)] | None = None
    in_flight: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


class TlsSettings(Table):
    """PEM files; `key` None: it stands in the certificate's file. None at all: no TLS."""

    certificate: Annotated[PemFile, PlainSerializer(str)] | None = None
    key: Annotated[PemFile, PlainSerializer(str)] | None = None

    def files(self) -> tuple[Path, Path | None] | None:
        """The files of certificate and key; None where clients speak plain HTTP."""
        if self.certificate is None:
            return None
        return file_named(self.certificate), None if self.key is None else file_named(self.key)

    @property
    def is_elsewhere(self) -> bool:
        """Whether a file is a credential that this process wasn't given."""
        names = [each for each in (self.certificate, self.key) if each is not None]
        return any("/" not in name and not is_given(name) for name in names)
