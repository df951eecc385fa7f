"""Every decision in the journal has a MESSAGE_ID for good, and every one of these is explained."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import ModuleType

import pytest

import warmd
from warmd import audit, chronicle
from warmd.message_ids import MessageId

CATALOG = Path(warmd.__file__).parents[1] / "systemd" / "warmd.catalog"
FIELDS = {"KEY", "MODEL", "REPLICA", "FROM", "TO", "REASON", "SECONDS", "GPU"}


def entries() -> dict[str, str]:
    """What the catalog says, by MESSAGE_ID (systemd.io/CATALOG)."""
    found = re.split(r"^-- ([0-9a-f]{32})\n", CATALOG.read_text(), flags=re.MULTILINE)[1:]
    assert len(set(found[::2])) == len(found[::2]), "an entry stands there twice"
    return dict(zip(found[::2], found[1::2], strict=True))


def test_the_catalog_explains_each_kind_and_no_other() -> None:
    assert set(entries()) == {each.value for each in MessageId}
    for text in entries().values():
        head, _, body = text.partition("\n\n")
        assert re.match(r"Subject: \S.*\nDefined-By: warmd\n", head), head
        assert "to do" in body
        assert set(re.findall(r"@WARMD_([A-Z]+)@", text)) <= FIELDS
        assert max(len(line) for line in body.splitlines()) <= 100


def test_the_ids_are_what_they_were() -> None:
    """A filter or an alert that somebody has set up must find its lines after an upgrade too."""
    assert MessageId("c97c172aebe749a2b45912a5e2865362") is MessageId.RUNG_CHANGED
    assert MessageId("dafd30444725489682643716f426a85f") is MessageId.ENGINE_FAILED
    assert all(re.fullmatch(r"[0-9a-f]{32}", each) for each in MessageId)


@pytest.mark.parametrize(("room", "kinds"), [(chronicle, 10), (audit, 2)])
def test_each_line_says_what_kind_it_is(room: ModuleType, kinds: int) -> None:
    tree = ast.parse(Path(room.__file__ or "").read_text())
    told = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name("log"), attr=level)) if level in (
                "info",
                "warning",
                "error",
                "critical",
            ):
                extra = next((each for each in node.keywords if each.arg == "extra"), None)
                assert extra is not None, ast.unparse(node)
                named = re.findall(r"MessageId\.([A-Z_]+)", ast.unparse(extra))
                assert len(named) == 1, ast.unparse(node)
                told.add(named[0])
            case _:
                pass
    assert len(told) >= kinds
