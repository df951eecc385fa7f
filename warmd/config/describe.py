"""What a config resolves to, as TOML that could be loaded again but for its secrets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from warmd.config.problem import quoted, quoted_key
from warmd.config.settings import Settings

_WHEN_UNSET = {
    "gateway.first_byte_timeout": "an engine may take as long as it takes",
    "gateway.silence_timeout": "an engine may be silent as long as it is",
    "pool": "a pool of its own",
    "vram": "all that is left of a GPU; without a GPU nothing is reserved",
    "gpus": "where it fits best",
    "concurrency": "2 requests of full length, more where they are short",
    "gateway.api_keys": "whoever reaches the addresses above may ask",
    "gateway.tls.certificate": "clients speak plain HTTP",
    "gateway.tls.key": "it stands in the certificate's file",
    "models": "any model",
    "in_flight": "any number of requests",
    "verify": "nobody asks whether the files are whole",
    "staging.rate": "as fast as the disk goes",
    "engine.python": "no model needs it",
    "timezone": "the host's",
    "seed": "the engine takes one of its own",
    "expect": "any answer will do",
    "every": "nothing is asked",
    "prompt": "what the warm-up asks",
    "max_tokens": "as many as the warm-up's",
    "at": "only when an operator asks",
    "replicas": "as many as the model has",
}


def describe(settings: Settings) -> str:
    """Return every setting with its default filled in, and `********` for each secret."""
    tree = _resolved(settings).model_dump(mode="json", by_alias=True)
    sources = [f"# {file}" for file in settings.sources]
    return "\n".join([*sources, *_table(tree, "")]).strip() + "\n"


def _resolved(settings: Settings) -> Settings:
    """Return the settings with what they inherit from each other written out."""
    models = {
        name: model.model_copy(
            update={
                "max_wait": settings.max_wait(name),
                "max_waiting": settings.max_waiting(name),
                "start_timeout": settings.start_timeout(name),
                "replicas": model.least_replicas,
                "scale": model.scale.model_copy(
                    update={
                        "min": model.least_replicas,
                        "max": max(model.least_replicas, model.scale.max),
                    }
                ),
            }
        )
        for name, model in settings.models.items()
    }
    control = settings.control.model_copy(update={"socket": settings.control_socket})
    gateway = settings.gateway.model_copy(update={"audit": settings.gateway.audits})
    staging = settings.staging.model_copy(update={"tmpfs": settings.stage_folder})
    update = {"models": models, "control": control, "staging": staging, "gateway": gateway}
    return settings.model_copy(update=update)


def _table(table: Mapping[str, object], name: str) -> Iterator[str]:
    values = {key: value for key, value in table.items() if not isinstance(value, dict)}
    if values:
        yield from ("", f"[{name}]")
    for key, value in values.items():
        if value is None:
            yield f"# {key} is not set: {_WHEN_UNSET.get(key) or _WHEN_UNSET[f'{name}.{key}']}"
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            yield f"{quoted_key(key)} = ["
            yield from (f"    {as_toml(item)}," for item in value)
            yield "]"
        else:
            yield f"{quoted_key(key)} = {as_toml(value)}"
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _table(value, f"{name}.{quoted_key(key)}" if name else quoted_key(key))


def as_toml(value: object) -> str:
    """Write a value of a table that was dumped, as TOML has it."""
    if isinstance(value, list):
        return "[" + ", ".join(as_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        pairs = (f"{quoted_key(k)} = {as_toml(v)}" for k, v in value.items() if v not in (None, []))
        return "{ " + ", ".join(pairs) + " }"
    if isinstance(value, bool):
        return str(value).lower()
    return quoted(value) if isinstance(value, str) else str(value)
