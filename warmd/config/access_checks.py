"""What must be true of keys and TLS beyond the types, and what is odd about them."""

from __future__ import annotations

from collections.abc import Iterator

from warmd.config.api_keys import read_api_keys
from warmd.config.certificate import CertificateError, valid_until
from warmd.config.credentials import is_of_others
from warmd.config.fields import did_you_mean
from warmd.config.problem import ConfigError, Finding, KeyPath, dotted, quoted
from warmd.config.settings import Settings
from warmd.spoken import duration

_SOON_S = 7 * 86400.0


def access(settings: Settings) -> Iterator[Finding]:
    """Find models that don't exist, and half of a pair."""
    yield from _models_of_keys(settings)
    tls = settings.gateway.tls
    if tls.key is not None and tls.certificate is None:
        yield Finding(
            ("gateway", "tls", "key"),
            "has no effect without gateway.tls.certificate: name the certificate too, or take the "
            "key away",
            quoted(tls.key),
            rests_on=(("gateway", "tls", "certificate"),),
        )


def _models_of_keys(settings: Settings) -> Iterator[Finding]:
    owner = {alias: name for name, model in settings.models.items() for alias in model.aliases}
    for holder, limits in settings.gateway.keys.items():
        for index, model in enumerate(limits.models or ()):
            if model in settings.models:
                continue
            path: KeyPath = ("gateway", "keys", holder, "models", index)
            if model in owner:
                what = f"is an alias: write {quoted(owner[model])}, which all its aliases belong to"
            else:
                hint = did_you_mean(model, settings.models) or ": take it away, or add the model"
                what = f"there is no such model{hint}"
            yield Finding(path, what, quoted(model), rests_on=(("models", model),))


def doubts_about_access(settings: Settings, now: float) -> Iterator[str]:
    """Say, in sentences, what has no effect as it stands, or soon; reads the files.

    `now`: Unix seconds.
    """
    keys = settings.gateway.api_keys
    if keys is not None and is_of_others(keys):
        yield f"gateway.api_keys {keys} is a credential of systemd, not looked at from here"
    else:
        yield from _doubts_about_keys(settings)
    tls = settings.gateway.tls
    if (pair := tls.files()) is None:
        return
    if tls.is_elsewhere:
        yield "gateway.tls names a credential of warmd.service, which was not looked at from here"
        return
    try:
        left = valid_until(pair[0]) - now
    except CertificateError:
        return  # told as a problem of the file
    if left < 0:
        yield f"{pair[0]} has expired, and clients refuse it: renew the certificate"
    elif left < _SOON_S:
        yield f"{pair[0]} expires in {duration(left)}: renew the certificate"


def _doubts_about_keys(settings: Settings) -> Iterator[str]:
    limited = settings.gateway.keys
    if not limited:
        return
    if settings.gateway.api_keys is None:
        tables = ", ".join(dotted(("gateway", "keys", name)) for name in limited)
        yield f"{tables} has no effect: without gateway.api_keys nobody is asked for a key"
        return
    try:
        known = {each.name for each in read_api_keys(settings.gateway.api_keys)}
    except ConfigError:
        return  # told as problems of the file
    for name in limited:
        if name not in known:
            close = did_you_mean(name, known)
            yield (
                f"{dotted(('gateway', 'keys', name))} has no effect: {settings.gateway.api_keys} "
                f"has no key of that name{close}"
            )
