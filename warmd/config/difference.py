"""Which keys two configs differ in, with what they were and are, but for secrets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import BaseModel

from warmd.config.describe import as_toml
from warmd.config.problem import quoted_key


@dataclass(frozen=True)
class Difference:
    """One key that differs. `old` and `new` are TOML, `********` for a secret, None where unset."""

    key: str
    old: str | None
    new: str | None


def differences(now: BaseModel, new: BaseModel, prefix: str = "") -> Iterator[Difference]:
    """Yield the keys that differ between two tables of one kind, in the table's order."""
    yield from _tables(now, new, _dump(now), _dump(new), prefix)


def _tables(
    now: BaseModel,
    new: BaseModel,
    now_shown: Mapping[str, object],
    new_shown: Mapping[str, object],
    prefix: str,
) -> Iterator[Difference]:
    for name, field in type(now).model_fields.items():
        key = field.alias or name
        was, comes = now_shown[key], new_shown[key]
        pair = getattr(now, name), getattr(new, name)
        yield from _values(pair, (was, comes), f"{prefix}{key}")


def _values(
    pair: tuple[object, object], shown: tuple[object, object], key: str
) -> Iterator[Difference]:
    match (*pair, *shown):
        case BaseModel() as now, BaseModel() as new, dict() as was, dict() as comes:
            yield from _tables(now, new, was, comes, f"{key}.")
        case dict() as now, dict() as new, dict() as was, dict() as comes:
            for name in dict.fromkeys((*now, *new)):
                one = now.get(name), new.get(name)
                yield from _values(
                    one, (was.get(name), comes.get(name)), f"{key}.{quoted_key(name)}"
                )
        case now, new, was, comes:
            # Compared as they are, and shown as they are dumped: a secret is masked there.
            if now != new:
                yield Difference(key, _shown(was), _shown(comes))


def _dump(table: BaseModel) -> Mapping[str, object]:
    dumped: Mapping[str, object] = table.model_dump(mode="json", by_alias=True)
    return dumped


def _shown(value: object) -> str | None:
    match value:
        case None:
            return None
        case dict() as table:
            keys = (
                f"{quoted_key(key)} = {_shown(each)}"
                for key, each in table.items()
                if each is not None
            )
            return "{ " + ", ".join(keys) + " }"
        case _:
            return as_toml(value)
