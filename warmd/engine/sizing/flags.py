"""What a model's args tell vLLM about its memory. Pure; written as vLLM's own parser reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from warmd.engine.errors import SizingError

_SHORT = {
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-dp": "--data-parallel-size",
    "-q": "--quantization",
    "-sc": "--speculative-config",
}
_NUMBER = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)([kKmMgGtT]?)")
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}

# What changes the sum and isn't counted here, and how it is called in a sentence.
_NOT_COUNTED = {
    "--enable-lora": "LoRA adapters",
    "--speculative-config": "a draft model and its KV cache",
    "--hf-overrides": "what --hf-overrides changes in config.json",
    "--cpu-offload-gb": "what --cpu-offload-gb saves",
    "--quantization": "what quantising while loading saves",
}
_EVERY_TOKEN = ("--disable-hybrid-kv-cache-manager", "--kv-transfer-config")


@dataclass(frozen=True)
class EngineFlags:
    """A model's args by flag; of a repeated one the last holds, as with argparse."""

    values: Mapping[str, str]

    @staticmethod
    def of(args: Sequence[str]) -> EngineFlags:
        """Read `args`; a flag may be written with _, and its value after = or as the next one."""
        values: dict[str, str] = {}
        flag = ""
        for arg in args:
            if arg.startswith("-") and not re.fullmatch(r"-\d+", arg):
                name, _, value = arg.partition("=")
                flag = _SHORT.get(name, name.replace("_", "-"))
                values[flag] = value
            elif flag:
                values[flag], flag = arg, ""
        return EngineFlags(values)

    def number(self, flag: str, default: int) -> int:
        """Return a flag's whole number above 0. Raises `SizingError` where it is none."""
        found = self._value(flag)
        if found is None:
            return default
        number = human_int(found)
        if number is None or number <= 0:
            raise SizingError(f"{flag} must be a number above 0 (got {found!r}); correct the args")
        return number

    @property
    def max_model_len(self) -> int | None:
        """The longest request in tokens; None where vLLM shall choose it. Raises `SizingError`."""
        if not self.values.get("--max-model-len", "").strip() or self.fits_length:
            return None
        return self.number("--max-model-len", 0)

    @property
    def fits_length(self) -> bool:
        """Whether vLLM takes the longest request that it has room for, instead of failing."""
        return self.values.get("--max-model-len", "").strip().lower() in ("-1", "auto")

    @property
    def kv_cache_bytes(self) -> int | None:
        """A KV cache of fixed size on each GPU, None where there is none. Raises `SizingError`."""
        for flag in ("--kv-cache-memory-bytes", "--kv-cache-memory"):
            if flag in self.values:
                return self.number(flag, 0)
        return None

    @property
    def dtype(self) -> str:
        """The weights' dtype, as the flag has it."""
        return self.values.get("--dtype", "auto").lower()

    @property
    def load_format(self) -> str:
        """How vLLM is told to load weights, which says what files it reads."""
        return self.values.get("--load-format", "").lower() or "auto"

    @property
    def kv_cache_dtype(self) -> str:
        """The KV cache's dtype, as the flag has it."""
        return self.values.get("--kv-cache-dtype", "auto").lower()

    @property
    def eager(self) -> bool:
        """Whether no CUDA graphs are captured."""
        return "--enforce-eager" in self.values

    @property
    def windows_hold_all(self) -> bool:
        """Whether layers with a sliding window keep every token all the same."""
        return any(flag in self.values for flag in _EVERY_TOKEN)

    def not_counted(self) -> tuple[str, ...]:
        """Name what these flags change beyond what is counted."""
        return tuple(what for flag, what in _NOT_COUNTED.items() if flag in self.values)

    def _value(self, flag: str) -> str | None:
        return self.values.get(flag)


def human_int(text: str) -> int | None:
    """Read a number as vLLM does: `32k` is 32,000, `32K` 32,768, `25.6k` 25,600; None: no number.

    Decimals go with k, m, g, t only.
    """
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    number, suffix = match.groups()
    if suffix.islower():
        return int(float(number) * 1000 ** _POWER[suffix])
    return None if "." in number else int(number) * 1024 ** _POWER[suffix.lower()]
