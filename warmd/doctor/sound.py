"""What of a config can be looked at, though other parts of it may be faulty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from warmd.config import Address, Problem, Settings
from warmd.config.problem import quoted_key
from warmd.doctor.finding import Finding, note, ok, problem
from warmd.ladder import Place, Rung
from warmd.spoken import count

_SUBJECT = "config"


class SoundConfig:
    """Settings without what is known to be faulty: a default in its place would mislead."""

    def __init__(self, file: Path, settings: Settings | None, problems: Sequence[Problem]) -> None:
        """`settings` None, or a file that can't be read at all: nothing of it is sound."""
        unread = settings is None or any(not each.path for each in problems)
        self.settings = Settings() if settings is None or unread else settings
        self._file = file
        self._problems = problems
        self._unread = unread
        self._faulty = [each.path for each in problems]

    @property
    def weights(self) -> dict[str, Path]:
        """The weights' folder of each model, by its name."""
        return {
            name: model.weights
            for name, model in self.settings.models.items()
            if self._is_sound(f"models.{quoted_key(name)}.weights")
        }

    @property
    def verified(self) -> dict[str, str]:
        """What the weights are verified by, of each model that has it done."""
        return {
            name: model.verify
            for name, model in self.settings.models.items()
            if model.verify is not None and self._is_sound(f"models.{quoted_key(name)}.verify")
        }

    @property
    def staged(self) -> frozenset[str]:
        """The models whose weights are in RAM while nobody asks for them."""
        models = self.settings.models.items()
        return frozenset(name for name, model in models if model.resting is Rung.STAGED)

    @property
    def kept(self) -> frozenset[str]:
        """The models whose staged weights are locked or in a tmpfs, and can't be pushed out."""
        models = self.settings.models.items()
        return frozenset(name for name, model in models if model.stage is not Place.PAGE_CACHE)

    @property
    def folders(self) -> dict[str, Path]:
        """The daemon's folders, by their key under [host]."""
        host = self.settings.host
        folders = {key: getattr(host, key) for key in ("run_dir", "state_dir", "cache_dir")}
        return {key: path for key, path in folders.items() if self._is_sound(f"host.{key}")}

    @property
    def addresses(self) -> dict[str, tuple[Address, ...]]:
        """Where the daemon listens, by key."""
        addresses = {
            "gateway.listen": self.settings.gateway.listen,
            "metrics.listen": self.settings.metrics.listen,
            "gateway.agent_check": self.settings.gateway.agent_check,
        }
        return {key: many for key, many in addresses.items() if self._is_sound(key)}

    @property
    def group(self) -> str | None:
        """The group that the control socket is given to; None where a faulty key names it."""
        return self.settings.control.group if self._is_sound("control.group") else None

    @property
    def checked_further(self) -> Path | None:
        """Its file, where nothing is wrong with it so far: whether it fits here is asked then."""
        return None if self._problems or self._unread else self._file

    @property
    def python(self) -> Path | None:
        """The engine's Python; of a faulty one the look at it says more than the config's check."""
        return self.settings.engine.interpreter

    def _is_sound(self, key: str) -> bool:
        if self._unread:
            return False
        return not any(
            f"{faulty}.".startswith(f"{key}.")
            or f"{faulty}[".startswith(f"{key}[")
            or f"{key}.".startswith(f"{faulty}.")
            for faulty in self._faulty
        )

    def judge(self, told_elsewhere: frozenset[str]) -> Iterator[Finding]:
        """Judge the config; what is wrong with the keys `told_elsewhere` is told there, better."""
        remedy = "mend it; warmd check-config shows whether it is right, warmctl reload takes it"
        for each in self._problems:
            if each.path not in told_elsewhere:
                yield problem(_SUBJECT, str(each), remedy)
        if self._unread:
            yield note(_SUBJECT, "what a config would name was not looked at")
        elif not self._problems:
            yield ok(_SUBJECT, f"{self._file}, {count(len(self.settings.models), 'model')}")
