from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from warmd.config import ConfigError, doubts_about_access, load, overbooked

DIGEST = hashlib.sha256(b"key").hexdigest()


def config(tmp_path: Path, model: str = "", host: str = "", name: str = "m") -> Path:
    """Write a config that is in order but for what is added to it."""
    weights, python = tmp_path / "weights", tmp_path / "python"
    weights.mkdir(exist_ok=True)
    (weights / "config.json").touch()
    python.touch(mode=0o755)
    file = tmp_path / "warmd.toml"
    engine = "" if "engine.python" in host else f'engine.python = "{python}"\n'
    own = "" if "weights" in model else f'weights = "{weights}"\n'
    file.write_text(f'{engine}{host}\n[models."{name}"]\n{own}{model}\n')
    return file


def problem(file: Path) -> str:
    """The only problem of a config, without its place."""
    with pytest.raises(ConfigError) as caught:
        load(file)
    [only] = caught.value.problems
    return str(only).split(": ", 1)[1]


def test_a_sound_config_is_sound(tmp_path: Path) -> None:
    assert set(load(config(tmp_path)).models) == {"m"}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ('["--model", "x"]', "args[0]: must not hold --model: warmd sets it itself; the folder"),
        ('["--model=x"]', "must not hold --model:"),
        ('["-v", "--served_model_name=gpt"]', "args[1]: must not hold --served-model-name:"),
        ('["--uds", "/s"]', "private socket"),
        ('["--enable-sleep-mode"]', "set by engine.sleep"),
        ('["--no-enable-sleep-mode"]', "set by engine.sleep"),
        ('["--host", "0.0.0.0"]', "private socket"),
        ('["--port=1"]', "private socket"),
        ('["--por=1"]', "must not hold --por, which vLLM reads as --port:"),
        ('["--api-key=sk-secret"]', "set gateway.api_keys"),
        ('["--ssl_keyfile", "k"]', "set in gateway.tls"),
        ('["--root-path=/v"]', "without a prefix"),
        ('["--config", "c.yaml"]', "list them in `args`"),
        ('["--hf-token=sk-secret"]', "set HF_TOKEN in `env`"),
        ('["--max-model-len 4096"]', 'must be two strings, "--max-model-len" and its value'),
        ('["4096"]', "args: must begin with a flag"),
        ('["-x\\u0000sk-secret"]', "must not hold a NUL"),
        ('"--enforce-eager sk-secret"', "args: must be an array"),
    ],
)
def test_refused_args(tmp_path: Path, args: str, says: str) -> None:
    text = problem(config(tmp_path, f"args = {args}"))
    assert says in text
    assert "sk-secret" not in text


def test_args_that_only_look_like_refused_ones(tmp_path: Path) -> None:
    args = '["--model-impl", "auto", "--config_format=hf", "-O0", "-tp", "2", "--x={\\"a\\": 1}"]'
    assert load(config(tmp_path, f"args = {args}")).models["m"].args[2] == "--config_format=hf"


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ('{ TOKEN = ["sk-secret"] }', "env.TOKEN: must be a string (got an array)"),
        ("{ TOKEN = 424242 }", "env.TOKEN: must be a string (got a number)"),
        ('{ TOKEN = "sk-secret\\u0000" }', "env.TOKEN: must not hold a NUL"),
        ('{ "MY-TOKEN" = "sk-secret" }', "env.MY-TOKEN: is no name of an environment variable"),
        ('{ VLLM_SERVER_DEV_MODE = "1" }', "development endpoints; whether its engines can sleep"),
        ('{ VLLM_API_KEY = "sk-secret" }', "env.VLLM_API_KEY: must not reach an engine: keys are"),
        *(
            (
                f'{{ VLLM_CPU_KVCACHE_SPACE = "{space}" }}',
                "env.VLLM_CPU_KVCACHE_SPACE: must be a whole number of GiB",
            )
            for space in ("secret", "4GiB-secret", "424242.5", "-424242", "4242420", " ")
        ),
        ('{ NOTIFY_SOCKET = "x" }', "systemd's word to warmd"),
        ('"TOKEN=sk-secret"', "env: must be a table (got a string)"),
    ],
)
@pytest.mark.parametrize("owner", ["engine", "model"])
def test_environments_are_checked_and_never_shown(
    tmp_path: Path, owner: str, env: str, says: str
) -> None:
    file = (
        config(tmp_path, f"env = {env}")
        if owner == "model"
        else config(tmp_path, host=f"engine.env = {env}")
    )
    text = problem(file)
    assert says in text
    assert "secret" not in text
    assert "424242" not in text


@pytest.mark.parametrize("space", ["", "0", "4"])
def test_a_kv_cache_of_whole_gib_is_sound(tmp_path: Path, space: str) -> None:
    env = f'env = {{ VLLM_CPU_KVCACHE_SPACE = "{space}" }}'
    assert "m" in load(config(tmp_path, env, host=f"engine.{env}")).models


def test_a_secret_under_an_unknown_key_is_not_shown(tmp_path: Path) -> None:
    text = problem(config(tmp_path, 'HF_TOKEN = "sk-secret"'))
    assert "models.m.HF_TOKEN: unknown key" in text
    assert "sk-secret" not in text


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ('gateway.listen = ["0.0.0.0:8400"]', "listen[0]: other machines could use the models"),
        ('gateway.listen = ["gpu.lan:8400"]', "set gateway.api_keys, or listen on 127.0.0.1:8400"),
        ("gateway.listen = []", "gateway.listen: must not be empty (got an empty array)"),
        ('gateway.listen = ["localhost:8401"]', "metrics.listen[0]: can't be listened on beside"),
        ('metrics.listen = ["127.0.0.1:1", "127.0.0.1:1"]', "beside metrics.listen[0] (127.0.0.1"),
        ('gateway.max_wait = "0s"', "must be more than nothing"),
        ("gateway.max_wait = 1.5", 'must be a string with a unit, such as "1.5s" (got 1.5)'),
        ("gateway.max_wait = true", "must be a string (got true)"),
        ('gateway.max_body = "0B"', "must be more than nothing"),
        ("ram.staging = 50", 'must be a string with a unit, such as "50%" (got 50)'),
        ("restart.give_up_after = true", "must be a whole number (got true)"),
        ('control.group = ""', "must not be empty"),
        (f'control.socket = "/{"s" * 107}"', "path of 108 bytes, and Linux allows 107"),
        (f'host.run_dir = "/{"é" * 48}"', "host.run_dir: its socket /é"),
        (f'host.run_dir = "/{"r" * 83}"', "models.m: its socket /r"),
        ('engine.python = "/nowhere/python"', "there is no such file; name the Python of vLLM"),
        ('engine.python = "/usr"', "must be a program that this user may run"),
        ('engine.python = "/etc/passwd"', "must be a program that this user may run"),
    ],
)
def test_host_checks(tmp_path: Path, host: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(config(tmp_path, host=host))
    assert says in str(caught.value)


def test_a_socket_path_may_have_107_bytes(tmp_path: Path) -> None:
    fits = 107 - len("/engines/m.0/engine.sock")
    file = config(tmp_path, host=f'host.run_dir = "/{"r" * (fits - 1)}"')
    assert load(file).models["m"].replicas == 1
    file = config(tmp_path, "replicas = 11", host=f'host.run_dir = "/{"r" * (fits - 1)}"')
    assert "has a path of 108 bytes" in problem(file)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("replicas = 0", "must be at least 1"),
        ("replicas = 65", "must be at most 64"),
        ('aliases = ["a", "a"]', "aliases[1]: models.m.aliases[0] has this name already"),
        ('aliases = ["m"]', "models.m has this name already"),
        ('aliases = [" a"]', "no space around"),
        ('aliases = ["--port"]', "must not begin with -"),
        ('weights = "/nowhere"', "there is no such folder: download the model there first"),
        ('weights = "/etc/passwd"', "must be the model's folder, not a file in it"),
        ('weights = "/etc"', "holds no config.json"),
        ('weights = "~/m"', "must be a whole path on this host, beginning with /"),
    ],
)
def test_model_checks(tmp_path: Path, model: str, says: str) -> None:
    assert says in problem(config(tmp_path, model))


def test_a_cache_entry_of_hugging_face_stands_for_its_snapshot(tmp_path: Path) -> None:
    entry = tmp_path / "models--Qwen--Qwen3"
    snapshot = entry / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").touch()
    file = config(tmp_path, f'weights = "{entry}"')
    assert f'did you mean "{snapshot}"?' in problem(file), "it has no blobs"
    (entry / "blobs").mkdir()
    assert load(file).models["m"].weights == entry
    (entry / "snapshots" / "def").mkdir()
    assert "holds 2 snapshots and no refs/main" in problem(file)


def test_a_folder_is_offered_only_where_it_is_the_model_s(tmp_path: Path) -> None:
    folder, said = tmp_path / "models", 'did you mean "'
    for name in ("one", "other"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").touch()
        assert said not in problem(config(tmp_path, f'weights = "{folder}"')), "no weights there"
    (folder / "one" / "model.safetensors").touch()
    assert said not in problem(config(tmp_path, f'weights = "{folder}"')), "one of several"
    (folder / "other" / "config.json").unlink()
    assert f'{said}{folder / "one"}"?' in problem(config(tmp_path, f'weights = "{folder}"'))


def test_pool_names(tmp_path: Path) -> None:
    file = config(tmp_path)
    file.write_text(file.read_text() + '\n[pools."Bad name"]\nvram = "1GiB"\n')
    text = problem(file)
    assert "a pool's name is up to 64 of a-z" in text
    assert "call it 'bad-name'" in text
    assert "alias" not in text


@pytest.mark.parametrize("name", ["Qwen/Qwen3-32B", "", "-x", "x" * 65, "a b"])
def test_model_names(tmp_path: Path, name: str) -> None:
    text = problem(config(tmp_path, name=name))
    assert "a model's name is up to 64 of a-z" in text
    if name.startswith("Qwen"):
        assert "call it 'qwen-qwen3-32b' and put 'Qwen/Qwen3-32B' in its aliases" in text


def test_api_keys_open_the_gateway_to_others(tmp_path: Path) -> None:
    keys = tmp_path / "api-keys"
    keys.write_text(f"# who may ask\n\nalice@lab: {DIGEST.upper()}\nbob:{DIGEST} # old\n")
    file = config(tmp_path, host=f'gateway = {{ listen = ["0.0.0.0:8400"], api_keys = "{keys}" }}')
    assert load(file).gateway.api_keys == keys


def test_faulty_api_keys_are_told_by_line_and_never_shown(tmp_path: Path) -> None:
    keys = tmp_path / "api-keys"
    file = config(tmp_path, host=f'gateway.api_keys = "{keys}"')
    keys.write_text(f"sk-secret\nbob:sk-secret\nbob:{DIGEST}\n{DIGEST}\n:{DIGEST}\nx:{DIGEST}0\n")
    with pytest.raises(ConfigError) as caught:
        load(file)
    found = [(one.file, one.line, one.path) for one in caught.value.problems]
    assert found == [(keys, line, "gateway.api_keys") for line in (1, 2, 4, 5, 6)]
    assert "sk-secret" not in str(caught.value)
    assert DIGEST not in str(caught.value)

    keys.write_text("# nobody yet\n")
    assert "holds no key, which would lock everybody out" in problem(file)
    keys.unlink()
    assert "there is no such file" in problem(file)
    keys.symlink_to("/dev/zero")
    assert "it is no regular file" in problem(file)


@pytest.mark.parametrize("folder", ["/", "/etc/passwd", "/dev/null"])
def test_copies_belong_in_a_folder_of_their_own(tmp_path: Path, folder: str) -> None:
    text = problem(config(tmp_path, host=f'staging.tmpfs = "{folder}"'))
    assert "name a folder of its own" in text


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ('cron = [{ at = "0 9 * * *" }]', "cron[0].at: must say what happens then: `rung`, or `wa"),
        (
            'cron = [{ at = "0 9 * * *", rung = "hot", warmup = true }]',
            "cron[0].warmup: can't stand beside `rung`: write another entry",
        ),
        (
            'cron = [{ at = "0 9 * * *", warmup = true, replicas = 2 }]',
            "cron[0].replicas: has no effect beside `warmup`",
        ),
        (
            'warmup.response_format = "yaml"',
            "response_format: must be 'text', 'json' or a JSON",
        ),
        ("warmup.response_format = '{\"a\"'", "warmup.response_format: is no JSON schema: "),
        (
            """warmup = { max_tokens = 9, response_format = '{"items": {"type": "objekt"}}' }""",
            'checked by: items.type is "objekt", and may be object, array, string',
        ),
        ("""warmup.response_format = '{"type": 3}'""", "checked by: type is 3, and may be object"),
        ("""warmup.response_format = '{"required": "ok"}'""", "required is no array of names"),
        (
            """warmup.response_format = '{"properties": {"a": 1}}'""",
            "properties.a is no schema, but 1",
        ),
        ('warmup.response_format = "json"', "warmup.response_format: needs more than 1 tokens: "),
        (
            'warmup = { kind = "embedding", expect = "x" }',
            "warmup.expect: has no meaning for an",
        ),
        ('warmup.expect = "("', "warmup.expect: is no regular expression: "),
        ('keepalive.every = "often"', "keepalive.every: "),
        ('keepalive.every = "0s"', 'keepalive.every: must be more than nothing, or "auto"'),
        ("probe.idle = []", "probe.idle: must not be empty"),
        ('probe.at = "0 0 30 2 *"', "probe.at: would never fire"),
    ],
)
def test_requests_of_warmds_own(tmp_path: Path, model: str, says: str) -> None:
    assert says in problem(config(tmp_path, model))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (
            "replicas = 2\nscale = { max = 4 }",
            "replicas: contradicts the model's `scale`, whose `min` says how many there are",
        ),
        (
            "scale = { min = 2 }",
            "scale.max: must be at least `min`, which is 2 (got 1)",
        ),
        (
            'scale = { max = 2 }\nargs = ["--disable-log-stats"]',
            "args[0]: contradicts the model's `scale`: an engine without statistics doesn't tell",
        ),
        ("scale = { max = 65 }", "scale.max: must be at most 64 (got 65)"),
        ("scale = { most = 2 }", "scale.most: unknown key; known here: min, max,"),
    ],
)
def test_a_scale_that_contradicts_itself_is_refused(tmp_path: Path, model: str, says: str) -> None:
    assert says in problem(config(tmp_path, model))


def test_scale_in_one_line_is_whole(tmp_path: Path) -> None:
    line = 'scale = { min = 2, max = 4, waiting_above = 3, for = "5s", cool_down = "1m" }'
    table = load(config(tmp_path, line)).models["m"]
    assert (table.least_replicas, table.firm_replicas, table.most_replicas) == (2, 2, 4)
    assert (table.scale.waiting_above, table.scale.after, table.scale.cool_down) == (3, 5.0, 60.0)
    again = load(config(tmp_path, "replicas = 2\nscale = { min = 2, max = 4 }")).models["m"]
    assert again.least_replicas == 2


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("", []),
        ('ram.staging = "65%"', []),
        (
            'ram.staging = "70%"',
            [
                (
                    "ram.staging (70.0 GiB), ram.sleeping (30.0 GiB) and ram.reserve (5.0 GiB) are "
                    "105.0 GiB together, and this host has 100.0 GiB of RAM: some files or "
                    "sleepers won't find theirs; lower one of them"
                )
            ],
        ),
        ('ram.staging = "70%"\nengine.sleep = "off"', []),
        ('ram.staging = "0%"', []),
        ('ram.staging = "0GiB"', []),
    ],
)
def test_shares_of_ram_that_are_more_than_there_is_are_warned_of(
    tmp_path: Path, host: str, says: list[str]
) -> None:
    assert list(overbooked(load(config(tmp_path, host=host)), 100 * 2**30)) == says


NOW = 1.8e9  # in Unix seconds
LIMITED = 'gateway = { api_keys = "%s", keys.alice = %s }'


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ('{ models = ["n"] }', "gateway.keys.alice.models[0]: there is no such model"),
        ('{ models = ["gpt"] }', 'is an alias: write "m", which all its aliases belong to'),
        ("{ in_flight = 0 }", "gateway.keys.alice.in_flight: must be at least 1"),
        ("{ model = 1 }", "gateway.keys.alice.model: unknown key, did you mean 'models'?"),
    ],
)
def test_limits_of_a_key(tmp_path: Path, limits: str, says: str) -> None:
    keys = tmp_path / "api-keys"
    keys.write_text(f"alice:{DIGEST}\n")
    file = config(tmp_path, model='aliases = ["gpt"]', host=LIMITED % (keys, limits))
    assert says in problem(file)


def test_limits_of_a_key_that_nobody_has_are_told(tmp_path: Path) -> None:
    keys = tmp_path / "api-keys"
    keys.write_text(f"alicia:{DIGEST}\n")
    limited = config(tmp_path, host=LIMITED % (keys, "{ models = [] }"))
    [told] = doubts_about_access(load(limited), NOW)
    assert told == (
        f"gateway.keys.alice has no effect: {keys} has no key of that name, did you mean 'alicia'?"
    )
    keys.write_text(f"alice:{DIGEST}\n")
    assert not [*doubts_about_access(load(tmp_path / "warmd.toml"), NOW)]
    [told] = doubts_about_access(load(config(tmp_path, host="[gateway.keys.bob]")), NOW)
    assert "nobody is asked for a key" in told


@pytest.mark.parametrize(
    ("tls", "says"),
    [
        ('{ key = "/k" }', "gateway.tls.key: has no effect without gateway.tls.certificate"),
        ('{ certificate = "./c.pem" }', "must be a whole path on this host, beginning with /, or"),
        ('{ certificate = "" }', "must not be empty"),
    ],
)
def test_a_certificate_is_named_by_its_path_or_as_a_credential(
    tmp_path: Path, tls: str, says: str
) -> None:
    assert says in problem(config(tmp_path, host=f"gateway.tls = {tls}"))


def test_tls_opens_nothing_to_others_without_keys(tmp_path: Path) -> None:
    tls = 'gateway = { listen = ["0.0.0.0:8443"], tls.certificate = "credential-of-others" }'
    with pytest.raises(ConfigError, match="other machines could use the models without a key"):
        load(config(tmp_path, host=tls))


def test_keys_that_are_a_credential_of_the_service_are_no_fault_of_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Path("/run/credentials/warmd.service/api-keys")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)

    def closed(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    file = config(tmp_path, host=f'gateway.api_keys = "{keys}"')
    monkeypatch.setattr(Path, "open", closed)
    found = load(file)
    told = list(doubts_about_access(found, 0.0))
    assert told == [f"gateway.api_keys {keys} is a credential of systemd, not looked at from here"]
