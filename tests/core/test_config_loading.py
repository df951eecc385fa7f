from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warmd.config import Address, ConfigError, Problem, Share, load, load_to_run
from warmd.config import loading as loading_module
from warmd.config.settings import TABLES
from warmd.config.table import keys_of
from warmd.ladder import Rung


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def python(tmp_path: Path) -> Path:
    program = tmp_path / "python"
    program.touch(mode=0o755)
    return program


def write(tmp_path: Path, main: str, **models: str) -> Path:
    file = tmp_path / "warmd.toml"
    file.write_text(main)
    if models:
        (tmp_path / "models.d").mkdir()
    for name, text in models.items():
        (tmp_path / "models.d" / f"{name}.toml").write_text(text)
    return file


def errors(file: Path | None) -> list[str]:
    """Every problem of a config, without the folder that it stands in."""
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]
    folder = str(caught.value.problems[0].file.parent).removesuffix("/models.d")
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def test_tables_may_stand_in_any_file(tmp_path: Path, weights: Path, python: Path) -> None:
    file = write(
        tmp_path,
        f"""
        gateway.listen = ["127.0.0.1:0", "[::1]:8400"]
        [engine]
        python = "{python}"
        env = {{ A = "main" }}
        [models."qwen2.5-7b"]
        weights = "{weights}"
        """,
        b=f"""
        engine = {{ env.B = "file b" }}
        [gateway]
        max_wait = "1m30s"
        [ram]
        staging = "20GiB"
        [models.big]
        weights = "{weights}"
        args = ["--max-model-len", "32768"]
        aliases = ["Qwen/Big"]
        resting = "hot"
        idle = {{ after = "20m" }}
        max_wait = "5s"
        """,
        a="",
    )
    (tmp_path / "models.d" / ".b.toml.swp").write_text("[")
    (tmp_path / "models.d" / ".hidden.toml").write_text("[")
    (tmp_path / "models.d" / "off.toml.disabled").write_text("[")
    settings = load(file)

    assert settings.sources == (
        file,
        tmp_path / "models.d" / "a.toml",
        tmp_path / "models.d" / "b.toml",
    )
    assert settings.gateway.listen == (Address("127.0.0.1", 0), Address("::1", 8400))
    assert settings.gateway.max_wait == 90
    assert settings.gateway.max_body == 32 * 2**20
    assert settings.ram.staging == Share(size=20 * 2**30)
    assert settings.engine.python == python
    env = {name: value.get_secret_value() for name, value in settings.engine.env.items()}
    assert env == {"A": "main", "B": "file b"}
    big, small = settings.models["big"], settings.models["qwen2.5-7b"]
    assert (big.args, big.aliases) == (("--max-model-len", "32768"), ("Qwen/Big",))
    assert (big.resting, small.resting) == (Rung.HOT, Rung.STAGED)
    assert (settings.max_wait("big"), settings.max_wait("qwen2.5-7b")) == (5, 90)
    assert (big.idle.after, small.idle.after) == (1200, 300)
    assert settings.start_timeout("big") == 900


EVERY_PROBLEM = """\
warmd.toml:4: gateway.listen[1]: must be a host and a port, such as "127.0.0.1:8400" (got "8401")
warmd.toml:6: gateway.max_wiat: unknown key, did you mean 'max_wait'?
warmd.toml:7: gateway.max_body: must be a string with a unit, such as "32MiB" (got 32)
warmd.toml:8: gatway: unknown key, did you mean 'gateway'?
warmd.toml:9: engine.python: is missing, and models need it: the Python that vLLM is installed in, such as "/opt/vllm/bin/python"
warmd.toml:10: engine.listen: unknown key here; it belongs in [gateway] or [metrics]
warmd.toml:11: engine.start_timeout: must be a duration such as "90s", "20m", "1h30m" or "500ms", with the units d, h, m, s, ms (got "15 minutes")
warmd.toml:14: models.qwen.restng: unknown key, did you mean 'resting'?
warmd.toml:15: models.qwen.resting: must be 'cold', 'staged', 'asleep' or 'hot', did you mean 'staged'? (got "stagd")
warmd.toml:16: models.qwen.replicas: must be a whole number (got "2")
warmd.toml:17: models.qwen.args[1]: must be a string (got a number)
warmd.toml:18: models.qwen.warmup.prompt: must not be empty (got " ")
warmd.toml:18: models.qwen.warmup.max_tokens: must be at least 1 (got 0)
warmd.toml:18: models.qwen.warmup.kind: must be 'auto', 'chat', 'completion' or 'embedding', did you mean 'chat'? (got "chta")
models.d/other.toml:1: models.qwen: is already set in warmd.toml:12: keep one of the two
models.d/other.toml:4: gateway.max_body: is already set in warmd.toml:7: keep one of the two
models.d/other.toml:5: models.second.weights: is missing, and has no default
models.d/other.toml:6: models.second.pool: there is no such pool: add [pools.heavy] (got "heavy")
models.d/other.toml:7: models.second.aliases[1]: models.qwen has this name already: take one of the two away (got "qwen")
models.d/other.toml:9: models.third.weights: must be a whole path on this host, beginning with / (nothing is downloaded) (got "third")
models.d/other.toml:10: models.third.aliases[0]: models.second.aliases[0] has this name already: take one of the two away (got "gpt-4o")
models.d/other.toml:11: models.third.idle: must be a table (got "5m")
"""  # noqa: E501  one problem a line


def test_every_problem_of_every_file_at_once(tmp_path: Path, weights: Path) -> None:
    file = write(
        tmp_path,
        f"""\
[gateway]
listen = [
  "127.0.0.1:8400",
  "8401",
]
max_wiat = "180s"
max_body = 32
[gatway]
[engine]
listen = []
start_timeout = "15 minutes"
[models.qwen]
weights = "{weights}"
restng = "cold"
resting = "stagd"
replicas = "2"
args = ["--max-model-len", 32768]
warmup = {{ kind = "chta", max_tokens = 0, prompt = " " }}
""",
        other="""\
[models.qwen]
weights = "/elsewhere"
[gateway]
max_body = "1MiB"
[models.second]
pool = "heavy"
aliases = ["gpt-4o", "qwen"]
[models.third]
weights = "third"
aliases = ["gpt-4o"]
idle = "5m"
""",
    )
    assert errors(file) == EVERY_PROBLEM.splitlines()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"a = 1\nb = [1\n", "warmd.toml:3: not TOML: Unclosed array (column 1)"),
        (b"[host]\n[host]\n", "warmd.toml:2: not TOML: Cannot declare"),
        (b"[host]\nx = 1\nx = 2\n", "not TOML: Cannot overwrite a value"),
        (b"[host]\nrun_dir = '\xff'", "warmd.toml:2: is not UTF-8 text"),
        (b"a = " + b"[" * 9999, "warmd.toml: not a config: its arrays or tables are nested"),
        (
            b"a = " + b"1" * 5000,
            "warmd.toml: not a config: it holds a number of thousands of digits",
        ),
        (
            b"restart.give_up_after = 0x" + b"f" * 5000,
            "restart.give_up_after: must be at most 1000 (got a number)",
        ),
        (b"weights = '/w'", "warmd.toml:1: weights: unknown key here; it belongs in [models.NAME]"),
        (b"[host.x]", "warmd.toml:1: host.x: unknown key; known here: run_dir, state_dir"),
        (b"models = 1", "warmd.toml:1: models: must be a table (got 1)"),
        (b"[models]\r\n\r\na = 1", "warmd.toml:3: models.a: must be a table (got 1)"),
        (b"engine = []", "warmd.toml:1: engine: must be a table (got an empty array)"),
        (b"gateway.listen = ''", "gateway.listen: must be an array"),
        (b"host.run_dir = 2020-01-01", "host.run_dir: must be a string (got a date or time)"),
    ],
)
def test_one_faulty_file(tmp_path: Path, text: bytes, problem: str) -> None:
    file = tmp_path / "warmd.toml"
    file.write_bytes(text)
    [error] = errors(file)
    assert problem in error


def test_a_file_that_can_not_be_read_raises_no_guesses_about_the_others(
    tmp_path: Path, weights: Path
) -> None:
    file = write(
        tmp_path,
        "[engine]\npython =",
        a=f'gateway.listen = ["0.0.0.0:1"]\n[models.a]\nweights = "{weights}"\nreplica = 2',
    )
    assert errors(file) == [
        "warmd.toml:2: not TOML: Invalid value (column 9)",
        "models.d/a.toml:4: models.a.replica: unknown key, did you mean 'replicas'?",
    ]


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    file = tmp_path / "warmd.toml"
    assert errors(file) == ["warmd.toml: there is no such file"]
    file.mkdir()
    assert errors(file) == ["warmd.toml: is a folder, not a file"]
    file.rmdir()
    file.touch()
    (tmp_path / "models.d").touch()
    with pytest.raises(ConfigError, match=r"models\.d: there is no such f"):
        load(file)


def test_the_default_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "warmd.toml"
    monkeypatch.setattr(loading_module, "DEFAULT_FILE", file)
    [error] = errors(None)
    assert "warmd.toml: there is no such file: put the commented example" in error
    file.write_text("")
    assert load(None).sources == (file,)
    assert load(None).gateway.listen == (Address("127.0.0.1", 8400),)


@pytest.mark.parametrize("failing", ["warmd.toml", "models.d"])
def test_what_this_user_may_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def refuse(path: Path) -> bytes:
        if path.name == failing:
            raise PermissionError(13, "Permission denied")
        return b""

    monkeypatch.setattr("warmd.config.reading.content", refuse)
    if failing == "models.d":
        monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(ConfigError, match=rf"{failing}: user \w+ may not read it: give it"):
        load(tmp_path / "warmd.toml")


def test_what_is_no_file_of_a_sensible_size_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "large").open("wb") as large:
        large.truncate(2**40)
    for name, why in (("fifo", "no regular file"), ("large", "far too large")):
        with pytest.raises(ConfigError, match=f"{name}: can't be read: it is {why}"):
            load(tmp_path / name)
    with pytest.raises(ConfigError, match="random: can't be read: it is no regular file"):
        load(Path("/dev/random"))


def test_only_what_may_come_back_by_itself_is_gone_without(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.touch(mode=0o755)
    file = tmp_path / "warmd.toml"
    file.write_text(f'engine.python = "{python}"\n[models.a]\nweights = "/no/such"\n')
    found, [absent] = load_to_run(file)
    assert list(found.models) == ["a"]
    assert str(absent).startswith(f"{file}:3: models.a.weights: there is no such folder")
    with pytest.raises(ConfigError):
        load(file)
    file.write_text(file.read_text() + 'restng = "hot"\n')
    with pytest.raises(ConfigError, match="restng"):
        load_to_run(file)


VALUES = st.recursive(
    st.sampled_from(["1", "-1.5", "true", "''", '"5m"', '"1GiB"', '"/etc"', '"--x"', "1979-05-27"]),
    lambda inner: (
        st.lists(inner, max_size=2).map(lambda items: f"[{', '.join(items)}]")
        | inner.map("{{ env = {0}, after = {0} }}".format)
    ),
    max_leaves=4,
)
KEYS = st.sampled_from(
    [
        f"{table.replace('NAME', name)}.{key}".lstrip(".")
        for table, one in TABLES.items()
        for key in [*keys_of(one), "unknown"]
        for name in ("a", "'B'", "c")
    ]
)


@given(st.dictionaries(KEYS, VALUES, max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_file_holds_is_settings_or_problems_with_lines(
    tmp_path: Path, pairs: dict[str, str]
) -> None:
    file = tmp_path / "warmd.toml"
    file.write_text("\n".join(f"{key} = {value}" for key, value in pairs.items()))
    problems: tuple[Problem, ...] = ()
    try:
        load(file)
    except ConfigError as error:
        problems = error.problems
    assert len(set(problems)) == len(problems)
    for problem in problems:
        absent = problem.path in ("engine.python", "gateway.api_keys")
        assert absent or problem.line, problem
