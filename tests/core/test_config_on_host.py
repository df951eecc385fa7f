"""What check-config finds beside the config: of the files that it names."""

from __future__ import annotations

from pathlib import Path

from test_config_checks import config

from warmd.config import load
from warmd.wiring import check_on_host


def warned(file: Path) -> list[str]:
    told = check_on_host(load(file), 1.8e9, lambda _: None)[1]
    return [each for each in told if "can't start" in each]


def test_a_folder_without_weights_is_warned_of_as_the_operator_wrote_it(tmp_path: Path) -> None:
    host = f'host.state_dir = "{tmp_path}"\nhost.cache_dir = "{tmp_path}/cache"'
    [told] = warned(config(tmp_path, host=host))
    assert told.startswith(f"m can't start: {tmp_path}/weights: holds no weights (")
    assert not warned(config(tmp_path, host=host, model='args = ["--load-format", "dummy"]'))
    assert not warned(config(tmp_path, host=host, model='args = ["--load-format", "tensorizer"]'))
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"x")
    assert not warned(config(tmp_path, host=host))
