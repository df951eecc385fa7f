"""Who may ask the gateway for what, and the certificate that it shows."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PlainSerializer

from warmd.config.credentials import PemFile
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
