"""From the files of a config to settings, or to everything that is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from warmd.config.api_keys import check_api_keys
from warmd.config.certificate import check_certificate
from warmd.config.checks import check
from warmd.config.credentials import is_of_others
from warmd.config.findings import validate
from warmd.config.problem import ConfigError, Finding, KeyPath, Problem, dotted
from warmd.config.reading import (
    NO_SUCH_FILE,
    Document,
    Merged,
    merge,
    read_document,
    unreadable,
)
from warmd.config.settings import Settings

DEFAULT_FILE = Path("/etc/warmd/warmd.toml")
_NO_CONFIG_YET = (
    "there is no such file: put the commented example, etc/warmd.toml of warmd's source, there; "
    "an empty file is enough to begin with"
)


def load(path: Path | None = None) -> Settings:
    """Read `path` (None: `/etc/warmd/warmd.toml`) and every `models.d/*.toml` beside it.

    Raises `ConfigError` with every problem of every file.
    """
    settings, problems = load_what_is_sound(path)
    if problems or settings is None:
        raise ConfigError(problems)
    return settings


def load_to_run(path: Path | None = None) -> tuple[Settings, list[Problem]]:
    """Read as `load` does, but for what may come back by itself: that is returned as problems.

    A disk that isn't mounted yet at boot must not take the other models down with its own.
    """
    settings, problems = load_what_is_sound(path)
    if settings is None or not all(problem.may_come_back for problem in problems):
        raise ConfigError(problems)
    return settings, problems


def load_what_is_sound(path: Path | None = None) -> tuple[Settings | None, list[Problem]]:
    """Read as `load` does, for who makes do with a part: settings without their faulty keys.

    A key that is missing and has no default holds a stand-in. No settings where nothing is sound.
    """
    main = path or DEFAULT_FILE
    files, problems = _files(main)
    documents: list[Document] = []
    for file in files:
        match read_document(file, _NO_CONFIG_YET if file == DEFAULT_FILE else NO_SUCH_FILE):
            case Document() as document:
                documents.append(document)
            case Problem() as problem:
                problems.append(problem)
    all_read = not problems

    merged, clashes = merge(documents)
    settings, wrong = validate(merged.keys)
    findings = [*wrong]
    if settings is not None:
        bad = {finding.path for finding in wrong}
        findings += [found for found in check(settings) if _is_sound(found, bad, all_read)]
        keys_file = settings.gateway.api_keys
        if keys_file is not None and not is_of_others(keys_file):
            problems += check_api_keys(keys_file)
        tls = settings.gateway.tls
        if (pair := tls.files()) is not None and not tls.is_elsewhere:
            problems += check_certificate(*pair)
    problems += clashes + [_locate(finding, merged, main) for finding in findings]
    places = {dotted(path): place for path, place in merged.places.items()}
    sound = settings.read_from(tuple(files), places) if settings is not None else None
    return sound, _in_order(problems, files)


def _files(main: Path) -> tuple[list[Path], list[Problem]]:
    folder = main.parent / "models.d"
    try:
        # An editor's swap files begin with a dot.
        more = sorted(
            file
            for file in folder.iterdir()
            if file.suffix == ".toml" and not file.name.startswith(".")
        )
    except FileNotFoundError:
        return [main], []
    except OSError as error:
        return [main], [Problem(folder, None, "", unreadable(error))]
    return [main, *more], []


def _is_sound(finding: Finding, bad: Iterable[KeyPath], all_read: bool) -> bool:
    """Whether a finding stands on keys that are themselves in order."""
    if finding.rests_on and not all_read:
        return False
    return not any(
        path[: len(faulty)] == faulty
        for path in (finding.path, *finding.rests_on)
        for faulty in bad
    )


def _locate(finding: Finding, merged: Merged, main: Path) -> Problem:
    file, line = merged.where(finding.path) or (main, None)
    return Problem(
        file, line, dotted(finding.path), finding.message, finding.got, finding.may_come_back
    )


def _in_order(problems: Iterable[Problem], files: Sequence[Path]) -> list[Problem]:
    rank = {file: number for number, file in enumerate(files)}
    return sorted(
        problems, key=lambda problem: (rank.get(problem.file, len(rank)), problem.line or 0)
    )
