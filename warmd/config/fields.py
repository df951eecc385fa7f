"""The types of single settings: from what TOML gives to what the rooms want, and back to text.

A validator here raises `ValueError`, whose text is the sentence for the operator.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import AfterValidator, PlainSerializer, PlainValidator, SecretStr

from warmd.config.address import Address
from warmd.config.api_keys import key_name
from warmd.config.engine_args import allowed_arg, allowed_variable, no_nul
from warmd.config.hours import Days, TimeOfDay, parse_date, parse_zone
from warmd.config.json_schema import schema_flaw
from warmd.config.units import (
    Share,
    format_duration,
    format_percent,
    format_size,
    parse_duration,
    parse_percent,
    parse_size,
)
from warmd.cron import Cron
from warmd.ladder import Rung

MASK = "********"
_MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_Value = TypeVar("_Value")
_Word = TypeVar("_Word", bound=StrEnum)


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return `, did you mean 'x'?`, or nothing where no word is close."""
    close = get_close_matches(word, list(words), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _vram_text(vram: Vram) -> str:
    return vram if isinstance(vram, str) else format_size(vram)


def not_blank(text: str) -> str:
    """Return `text`; raises `ValueError` where it says nothing."""
    if not text.strip():
        raise ValueError("must not be empty")
    return no_nul(text)


def not_empty(items: tuple[_Value, ...]) -> tuple[_Value, ...]:
    """Return `items`; raises `ValueError` where there are none."""
    if not items:
        raise ValueError("must not be empty")
    return items


def _text(
    parse: Callable[[str], object], made: type | None = None, unit: str = ""
) -> PlainValidator:
    """Make a validator that takes text, and in code also a ready value of type `made`."""

    def validate(value: object) -> object:
        if made is not None and isinstance(value, made):
            return value
        if isinstance(value, str):
            return parse(value)
        if unit and isinstance(value, int | float) and not isinstance(value, bool):
            raise ValueError(f'must be a string with a unit, such as "{value}{unit}"')
        raise ValueError("must be a string")

    return PlainValidator(validate)


def _some(parse: Callable[[str], float]) -> Callable[[str], float]:
    def positive(text: str) -> float:
        value = parse(text)
        if value <= 0:
            raise ValueError("must be more than nothing")
        return value

    return positive


def _parse_path(text: str, besides: str = "") -> Path:
    if not text.startswith("/"):
        raise ValueError(f"must be a whole path on this host, beginning with /{besides}")
    return Path(no_nul(text))


def _parse_weights(text: str) -> Path:
    # What stands there instead is mostly a name from a hub.
    return _parse_path(text, " (nothing is downloaded)")


def _parse_verify(text: str) -> str:
    if text != no_nul(text) or not text or Path(text).is_absolute() or ".." in Path(text).parts:
        raise ValueError(
            'must name a manifest of sha256sum below `weights`, such as "SHA256SUMS", or be '
            '"hugging-face"'
        )
    return text


def _parse_name(name: str, whose: str, beside: str = "") -> str:
    if _MODEL_NAME.fullmatch(name):
        return name
    likely = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).lstrip("._-")[:64]
    instead = f"; call it {likely!r}{beside}" if likely else ""
    raise ValueError(
        f"a {whose}'s name is up to 64 of a-z, 0-9, '.', '_' and '-', and begins with a letter or "
        f"digit{instead}"
    )


def _parse_pool_name(name: str) -> str:
    return _parse_name(name, "pool")


def _parse_model_name(name: str) -> str:
    return _parse_name(name, "model", f" and put {name!r} in its aliases")


def _parse_alias(alias: str) -> str:
    if not alias or len(alias) > 256 or not alias.isprintable() or alias != alias.strip():
        raise ValueError("must be 1 to 256 printable characters, with no space around them")
    if alias.startswith("-"):
        raise ValueError("must not begin with -, which vLLM would take for a flag")
    return alias


def _time(value: object) -> TimeOfDay:
    match value:
        case TimeOfDay():
            return value
        case time():  # as TOML itself has it: 09:00:00
            return TimeOfDay.of(value)
        case _:
            return TimeOfDay.parse(str(value))


def _date(value: object) -> date:
    if isinstance(value, date) and not isinstance(value, datetime):  # as TOML itself has it
        return value
    return parse_date(str(value))


def _day_name(value: object) -> str:
    named = isinstance(value, str) and not value[:1].isdecimal()
    return _parse_name(str(value), "calendar") if named else str(_date(value))


def _parse_cron(text: str) -> str:
    return Cron.parse(text, "UTC").text


def _parse_format(text: str) -> str:
    if text in ("text", "json"):
        return text
    try:
        schema = json.loads(text) if text.lstrip().startswith("{") else None
    except ValueError as error:
        raise ValueError(f"is no JSON schema: {error}") from None
    if not isinstance(schema, dict):
        raise ValueError("must be 'text', 'json' or a JSON schema as text: '{\"type\": …}'")
    if (flaw := schema_flaw(schema)) is not None:
        raise ValueError(f"is no JSON schema that an answer can be checked by: {flaw}")
    return text


def _parse_pattern(text: str) -> str:
    try:
        re.compile(not_blank(text))
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return text


AUTO: Final = "auto"
Vram = int | Literal["auto"]
"""Bytes, or by an estimate."""


def _vram(text: str) -> Vram:
    if text == AUTO:
        return AUTO
    try:
        return int(_some(parse_size)(text))
    except ValueError as wrong:
        raise ValueError(f'{wrong}, or "auto"') from None


def _every(text: str) -> float | Literal["auto"]:
    if text == AUTO:
        return AUTO
    try:
        return _some(parse_duration)(text)
    except ValueError as wrong:
        raise ValueError(f'{wrong}, or "auto"') from None


def _every_text(every: float | Literal["auto"]) -> str:
    return every if isinstance(every, str) else format_duration(every)


GpuName = int | str


def gpu_names(value: object) -> tuple[GpuName, ...] | None:
    """Take `[0, 1]`, `["GPU-8f3c…"]` or `"auto"`; raises `ValueError`."""
    if value is None or value == "auto":
        return None
    if not isinstance(value, list | tuple) or not value:
        raise ValueError('must be "auto", or GPUs by index or UUID, such as [0, 1]')
    for name in value:
        is_index = isinstance(name, int) and not isinstance(name, bool) and name >= 0
        if not is_index and not (isinstance(name, str) and name.startswith(("GPU-", "MIG-"))):
            raise ValueError('must name GPUs by index or UUID, such as 0 or "GPU-8f3c…"')
    if len(set(value)) < len(value):
        raise ValueError("must not name a GPU twice")
    return tuple(value)


def _gpu_list(names: tuple[GpuName, ...] | None) -> list[GpuName] | None:
    return None if names is None else list(names)


def one_of(words: type[_Word], refused: Mapping[_Word, str] | None = None) -> PlainValidator:
    """Make the validator of one of an enum's words; those in `refused` say why not."""
    reasons = refused or {}
    known = [word.value for word in words if word not in reasons]

    def parse(text: str) -> _Word:
        if text in known:
            return words(text)
        for word, reason in reasons.items():
            if text == word:
                raise ValueError(reason)
        listed = ", ".join(repr(word) for word in known[:-1])
        raise ValueError(f"must be {listed} or {known[-1]!r}{did_you_mean(text, known)}")

    return _text(parse, words)


def _checked(secret: SecretStr) -> SecretStr:
    no_nul(secret.get_secret_value())
    return secret


def _masked(env: Mapping[str, SecretStr]) -> dict[str, str]:
    return dict.fromkeys(env, MASK)


_ALWAYS_HOT = "a model that shall never cool down is one with resting = 'hot'"

Seconds = Annotated[float, _text(_some(parse_duration), unit="s"), PlainSerializer(format_duration)]
Bytes = Annotated[int, _text(_some(parse_size), unit="MiB"), PlainSerializer(format_size)]
VramText = Annotated[Vram, _text(_vram, unit="MiB"), PlainSerializer(_vram_text)]
GpuNames = Annotated[
    tuple[GpuName, ...] | None, PlainValidator(gpu_names), PlainSerializer(_gpu_list)
]
Percent = Annotated[float, _text(parse_percent, unit="%"), PlainSerializer(format_percent)]
ShareText = Annotated[Share, _text(Share.parse, Share, unit="%"), PlainSerializer(str)]
AddressText = Annotated[Address, _text(Address.parse, Address), PlainSerializer(str)]
WholePath = Annotated[Path, _text(_parse_path, Path), PlainSerializer(str)]
WeightsPath = Annotated[Path, _text(_parse_weights, Path), PlainSerializer(str)]
RestingRung = Annotated[Rung, one_of(Rung), PlainSerializer(str)]
IdleRung = Annotated[Rung, one_of(Rung, {Rung.HOT: _ALWAYS_HOT}), PlainSerializer(str)]
VerifyText = Annotated[str, AfterValidator(_parse_verify)]
ModelName = Annotated[str, AfterValidator(_parse_model_name)]
Holder = Annotated[str, AfterValidator(key_name)]
"""The name of an API key."""
PoolName = Annotated[str, AfterValidator(_parse_pool_name)]
Alias = Annotated[str, AfterValidator(_parse_alias)]
Zone = Annotated[str, AfterValidator(parse_zone)]
DaysText = Annotated[Days, _text(Days.parse, Days), PlainSerializer(str)]
TimeText = Annotated[TimeOfDay, PlainValidator(_time), PlainSerializer(str)]
DateText = Annotated[date, PlainValidator(_date), PlainSerializer(str)]
CronText = Annotated[str, AfterValidator(_parse_cron)]
EveryText = Annotated[
    float | Literal["auto"], _text(_every, float, unit="s"), PlainSerializer(_every_text)
]
FormatText = Annotated[str, AfterValidator(_parse_format)]
PatternText = Annotated[str, AfterValidator(_parse_pattern)]
DayName = Annotated[str, PlainValidator(_day_name), PlainSerializer(str)]
"""A date, or the name of a calendar."""

Arg = Annotated[str, AfterValidator(allowed_arg)]
Environment = Annotated[
    dict[
        Annotated[str, AfterValidator(allowed_variable)],
        Annotated[SecretStr, AfterValidator(_checked)],
    ],
    PlainSerializer(_masked),
]
