"""What every table of the config is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """A table of the config: strict, closed and frozen."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


def keys_of(table: type[Table]) -> dict[str, object]:
    """Return the keys of a table as TOML has them, each with the type that its field holds."""
    return {field.alias or name: field.annotation for name, field in table.model_fields.items()}
