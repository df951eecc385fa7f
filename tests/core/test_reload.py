"""What a changed config changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from warmd.config import EngineSettings, GatewaySettings, ModelSettings, Settings
from warmd.reload import applicable, changes


def settings(**more: object) -> Settings:
    engine = EngineSettings(python=Path("/p"))
    models = {
        "a": ModelSettings.model_validate({"weights": "/a"}),
        "b": ModelSettings.model_validate({"weights": "/b"}),
    }
    return Settings(**({"engine": engine, "models": models} | more))  # type: ignore[arg-type]  # a table


def said(new: Settings) -> list[str]:
    return sorted(change.sentence for change in changes(settings(), new))


def test_nothing_changed_changes_nothing() -> None:
    assert said(settings()) == []


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (
            {"resting": "hot"},
            "a has other settings: they hold from now on, or its next start",
        ),
        (
            {"replicas": 2},
            "a has other settings: they hold from now on, or its next start",
        ),
        (
            {"max_wait": "9s"},
            "a has other settings: they hold from now on, or its next start",
        ),
        ({"args": ["--x"]}, "a has other engine settings: its engine is drained and made anew"),
        ({"aliases": ["y"]}, "a has other engine settings: its engine is drained and made anew"),
        ({"env": {"X": "1"}}, "a has other engine settings: its engine is drained and made anew"),
    ],
)
def test_only_what_the_engine_is_run_with_restarts_it(
    table: dict[str, object], sentence: str
) -> None:
    changed = ModelSettings.model_validate({"weights": "/a", **table})
    models = {"a": changed, "b": settings().models["b"]}
    assert said(settings(models=models)) == [sentence]


def test_models_come_and_go() -> None:
    models = {"b": settings().models["b"], "c": ModelSettings.model_validate({"weights": "/c"})}
    assert said(settings(models=models)) == [
        "a is gone from the config: it is drained and stopped",
        "c is new",
    ]


def test_another_python_is_another_engine_for_all() -> None:
    other = EngineSettings(python=Path("/other"))
    assert len(said(settings(engine=other))) == 2


def test_what_is_read_once_waits_for_the_next_start() -> None:
    new = settings(gateway=GatewaySettings.model_validate({"max_wait": "5s"}))
    kept, sentences = applicable(settings(), new)
    assert kept.gateway == settings().gateway
    assert sentences == ["[gateway] has changed: that holds from the next start on"]
