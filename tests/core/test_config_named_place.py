"""What is found to be wrong with a config after it was read is told by file and line as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from warmd.config import ConfigError, load
from warmd.fitting import Fitter


def test_the_file_that_has_the_model_is_named(tmp_path: Path) -> None:
    """Not the first of the files: that one is in order."""
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    main, folder = tmp_path / "warmd.toml", tmp_path / "models.d"
    main.write_text(f'[engine]\npython = "/usr/bin/python3"\n[host]\nstate_dir = "{tmp_path}"\n')
    folder.mkdir()
    own = folder / "m.toml"
    own.write_text(f'# M\n[models."qwen2.5"]\nweights = "{weights}"\nvram = "auto"\n')
    with pytest.raises(ConfigError) as error:
        Fitter(lambda _: None, "NVIDIA H200").reserve(load(main))
    assert str(error.value).startswith(f'{own}:4: models."qwen2.5".vram: "auto" can\'t be told: ')


def test_a_key_that_is_not_written_is_told_by_its_table(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    main = tmp_path / "warmd.toml"
    main.write_text(f'[models.m]\nweights = "{tmp_path}"\n[engine]\npython = "/usr/bin/python3"\n')
    settings = load(main)
    assert settings.place_of("models.m.args[0]") == (main, 1)
    assert settings.place_of("engine.python") == (main, 4)
    assert settings.place_of("pools") == (main, None)
