"""What pydantic objects to, said in TOML's words, and the settings that are left without it."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from warmd.config.fields import did_you_mean
from warmd.config.problem import Finding, KeyPath, dotted, shown
from warmd.config.reading import Tree
from warmd.config.settings import TABLES, Settings, table_at
from warmd.config.table import keys_of

_WORDINGS = {
    "missing": "is missing, and has no default",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "dict_type": "must be a table",
    "tuple_type": 'must be an array, such as ["…"]',
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
}
_MANY_ROUNDS = 10


def validate(tree: Tree) -> tuple[Settings | None, list[Finding]]:
    """Check types and single values.

    Returns everything that is wrong, and the settings with each faulty key left out, so that the
    checks that come after can look at the rest; None where not even those can be had.
    """
    findings: list[Finding] = []
    for attempt in range(_MANY_ROUNDS):
        try:
            return Settings.model_validate(tree), findings
        except ValidationError as error:
            errors = error.errors(include_url=False)
            if attempt == 0:
                findings = [_finding(details) for details in errors]
            tree = _without(tree, errors)
    return None, findings


def _finding(details: ErrorDetails) -> Finding:
    path = _path(details)
    kind, context = details["type"], details.get("ctx", {})
    if kind == "extra_forbidden":
        # What an unknown key holds isn't shown: it may be a secret in the wrong place.
        return Finding(path, _unknown(path))
    message = _WORDINGS.get(kind)
    if kind == "value_error":
        message = str(context["error"])
    elif kind == "tuple_type" and table_at(path) is not None:
        message = f"must be an array of tables: head each with [[{dotted(path)}]]"
    elif kind == "greater_than_equal":
        message = f"must be at least {context['ge']}"
    elif kind == "less_than_equal":
        message = f"must be at most {context['le']}"
    is_about_a_key = details["loc"][-1] == "[key]"
    got = None if kind == "missing" or is_about_a_key else shown(details["input"], path)
    return Finding(path, message or details["msg"], got)


def _path(details: ErrorDetails) -> KeyPath:
    loc = details["loc"]
    return loc[:-1] if loc[-1] == "[key]" else loc


def _unknown(path: KeyPath) -> str:
    key, table = str(path[-1]), table_at(path[:-1])
    known = keys_of(table) if table else {}
    if close := did_you_mean(key, known):
        return f"unknown key{close}"
    homes = [f"[{name}]" for name, other in TABLES.items() if name and key in keys_of(other)]
    if homes:
        return f"unknown key here; it belongs in {' or '.join(homes)}"
    return f"unknown key; known here: {', '.join(known)}"


def _without(tree: Tree, errors: list[ErrorDetails]) -> Tree:
    rest = _copy(tree)
    for details in errors:
        path = _path(details)
        whole = next((path[:n] for n, key in enumerate(path) if isinstance(key, int)), path)
        parent: Any = rest
        for key in whole[:-1]:
            parent = parent.get(key, {})
        if details["type"] == "missing":
            parent[whole[-1]] = "/"  # a stand-in: what is missing has been found already
        else:
            parent.pop(whole[-1], None)
    return rest


def _copy(tree: Tree) -> Tree:
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in tree.items()}
