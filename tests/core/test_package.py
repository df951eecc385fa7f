"""What the package says: pins, licences, manual, completion, and which files it holds."""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import re
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest
import tomli
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from warmd import __version__
from warmd.__main__ import parser as warmd_parser
from warmd.cli.argument_types import RUNGS
from warmd.cli.arguments import parser as warmctl_parser

ROOT = Path(__file__).parents[2]
DEBIAN = ROOT / "debian"


def pins(name: str) -> dict[str, str]:
    """The versions that a lock names; each must have a digest."""
    text = (DEBIAN / f"{name}.lock").read_text()
    lines = [line for line in text.replace("\\\n", "").splitlines() if "==" in line]
    assert all(re.search(r" --hash=sha256:[0-9a-f]{64}$", line) for line in lines)
    return dict(re.findall(r"(?m)^([\w.-]+)==(\S+)", text))


def test_what_is_pinned_is_what_the_project_asks_for() -> None:
    project = tomli.loads((ROOT / "pyproject.toml").read_text())
    locked = pins("requirements")
    for line in project["project"]["dependencies"]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)]), line
    for line in project["build-system"]["requires"]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(pins("build-requirements")[wanted.name]), line


def test_the_licence_of_each_package_that_is_shipped_is_told() -> None:
    told = re.findall(r"(?m)^  ([\w-]+)  ", (DEBIAN / "copyright").read_text())
    assert told == sorted(pins("requirements"))


def test_the_changelog_begins_with_this_version() -> None:
    first = (DEBIAN / "changelog").read_text().splitlines()[0]
    assert first.startswith(f"warmd ({__version__}-")


def test_every_file_for_systemd_is_installed() -> None:
    words = (DEBIAN / "warmd.install").read_text().split()
    links = {link.resolve().name for link in DEBIAN.iterdir() if link.is_symlink()}
    for file in (ROOT / "systemd").iterdir():
        named = any(fnmatch.fnmatch(f"systemd/{file.name}", word) for word in words)
        assert named or file.name in links, file.name


@pytest.fixture(scope="module")
def man_pages() -> dict[str, str]:
    loader = SourceFileLoader("man_pages", str(ROOT / "scripts" / "man-pages"))
    spec = importlib.util.spec_from_loader("man_pages", loader)
    assert spec is not None
    module = ModuleType("man_pages")
    module.__file__ = loader.path
    loader.exec_module(module)
    pages: dict[str, str] = module.pages()
    return {name: text.replace("\\-", "-").replace("\\&", "") for name, text in pages.items()}


def subcommands(
    parser: argparse.ArgumentParser,
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def options(parser: argparse.ArgumentParser) -> set[str]:
    shown = [each for each in parser._actions if each.help != argparse.SUPPRESS]
    return {name for each in shown for name in each.option_strings} - {"-h", "--help"}


@pytest.mark.parametrize(
    ("page", "parser"), [("warmctl.1", warmctl_parser()), ("warmd.8", warmd_parser())]
)
def test_each_command_and_option_has_its_place_in_the_manual(
    man_pages: dict[str, str], page: str, parser: argparse.ArgumentParser
) -> None:
    text = man_pages[page]
    assert not re.search("@[A-Z]+@", text)
    general, *parts = text.split("\n.SS ")
    assert options(parser) <= set(re.findall(r"--[\w-]+", general))
    by_name = {part.strip('"').split()[0].strip('"'): part for part in parts}
    for name, command in subcommands(parser):
        assert options(command) <= set(re.findall(r"--[\w-]+", by_name[name])), name
        for word, _ in subcommands(command):
            assert f"{name} {word}" in by_name[name]


def test_each_key_of_the_config_has_its_place_in_the_manual(man_pages: dict[str, str]) -> None:
    example = (ROOT / "etc" / "warmd.toml").read_text()
    page = man_pages["warmd.toml.5"]
    for table, keys in re.findall(r"(?m)^#?(\[\[?\S+\]\]?)\n((?:(?!^#?\[).*\n)*)", example):
        (section,) = re.findall(rf'(?m)^\.SS "{re.escape(table)}"\n((?:(?!\.SS|\.SH).*\n)*)', page)
        named = re.findall(r"(?m)^\\fB([\w-]+)\\fR = ", section)
        assert named == re.findall(r"(?m)^#?([\w-]+) = ", keys), table


@pytest.mark.parametrize(
    ("command", "parser"), [("warmctl", warmctl_parser()), ("warmd", warmd_parser())]
)
def test_completion_knows_each_command_and_its_options(
    command: str, parser: argparse.ArgumentParser
) -> None:
    text = (ROOT / "completions" / command).read_text()
    known = {name: set(words.split()) for name, words in re.findall(r'\[([\w-]+)\]="(.*)"', text)}
    assert known == {name: options(inner) for name, inner in subcommands(parser)}
    for option in options(parser):
        assert option in text
    with_value = {
        name
        for _, inner in subcommands(parser)
        for each in inner._actions
        if each.nargs != 0 and each.help != argparse.SUPPRESS
        for name in each.option_strings
    }
    assert all(re.search(rf"(?m)^ +(.* )?{option}[ )]", text) for option in with_value)
    assert command == "warmd" or all(rung in text for rung in RUNGS)
