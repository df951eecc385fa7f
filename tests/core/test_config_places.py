from __future__ import annotations

from collections.abc import Iterator

import tomli
from hypothesis import given
from hypothesis import strategies as st

from warmd.config.places import key_places
from warmd.config.problem import KeyPath

TEXT = '''\
# a comment with [brackets] and key = 1
top = """
[not.a.table]
no = "key" \\"""
"""
[a.b]   # also says where `a` is first
"quoted.key" = 'x'
'literal "key"' = 1
"\\u00e9" = """"quoted" at the end""""
dotted . inner = { one = 1, two.three = "}]", four = { five = [] } }
numbers = [
  1, # one
  # nothing here
  [ "]", """
two""" ], { in_item = 2 },
]
[[a.list]]
first = 1
[[ a . list ]]
first = 2
[a.list.sub]
deep = true
[c.d]
[c]
after = 2020-01-01T00:00:00Z
'''

LINES: dict[KeyPath, int] = {
    ("top",): 2,
    ("a",): 6,
    ("a", "b"): 6,
    ("a", "b", "quoted.key"): 7,
    ("a", "b", 'literal "key"'): 8,
    ("a", "b", "é"): 9,
    ("a", "b", "dotted"): 10,
    ("a", "b", "dotted", "inner"): 10,
    ("a", "b", "dotted", "inner", "two", "three"): 10,
    ("a", "b", "dotted", "inner", "four", "five"): 10,
    ("a", "b", "numbers"): 11,
    ("a", "b", "numbers", 0): 12,
    ("a", "b", "numbers", 1): 14,
    ("a", "b", "numbers", 1, 1): 14,
    ("a", "b", "numbers", 2, "in_item"): 15,
    ("a", "list"): 17,
    ("a", "list", 0): 17,
    ("a", "list", 0, "first"): 18,
    ("a", "list", 1): 19,
    ("a", "list", 1, "first"): 20,
    ("a", "list", 1, "sub"): 21,
    ("a", "list", 1, "sub", "deep"): 22,
    ("c",): 24,
    ("c", "d"): 23,
    ("c", "after"): 25,
}


def paths(value: object, path: KeyPath = ()) -> Iterator[KeyPath]:
    if path:
        yield path
    items: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, inner in items:
        yield from paths(inner, (*path, key))


def test_every_kind_of_key() -> None:
    places = key_places(TEXT)
    assert set(places) == set(paths(tomli.loads(TEXT)))
    assert {path: places[path] for path in LINES} == LINES


STRINGS = [
    '"s"',
    "'['",
    '"""\n[x]\n"""',
    "'''\n# = \n'''",
    '"a\\"b"',
    '"\\\\"',
    '""',
    "''",
    '"""\\\n"""',
]
SCALARS = st.sampled_from(["1", "-1.5e3", "true", "1979-05-27 07:32:00", *STRINGS])
GAPS = st.sampled_from(["", " ", "\n", " # ]}\n ", "\n\n\t"])


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[KeyPath, int]]:
    """Valid TOML with the line of each key, which is known from how the text is put together."""
    text = ""
    lines: dict[KeyPath, int] = {}
    count = 0

    def write(piece: str) -> None:
        nonlocal text
        text += piece

    def key() -> str:
        nonlocal count
        count += 1
        name = f"k{count}"
        write(draw(st.sampled_from([name, f'"{name}"', f"'{name}'"])))
        return name

    def mark(path: KeyPath) -> None:
        lines[path] = text.count("\n") + 1

    def pair(table: KeyPath, depth: int) -> None:
        mark(path := (*table, key()))
        if draw(st.booleans()):
            write(" . ")
            mark(path := (*path, key()))
        write(draw(st.sampled_from(["=", " = "])))
        value(path, depth)

    def value(path: KeyPath, depth: int) -> None:
        kind = draw(st.sampled_from(["scalar", "array", "table"])) if depth < 3 else "scalar"
        if kind == "scalar":
            write(draw(SCALARS))
        elif kind == "array":
            write("[" + draw(GAPS))
            for index in range(size := draw(st.integers(0, 3))):
                mark((*path, index))
                value((*path, index), depth + 1)
                write(draw(GAPS) + ("," if index < size - 1 else draw(st.sampled_from(["", ","]))))
                write(draw(GAPS))
            write("]")
        else:
            write("{ ")
            for index in range(size := draw(st.integers(0, 2))):
                pair(path, depth + 1)
                write(" , " if index < size - 1 else " ")
            write("}")

    for _ in range(draw(st.integers(0, 3))):
        table: KeyPath = ()
        if draw(st.booleans()) or text:
            brackets = draw(st.sampled_from(["[]", "[[]]"]))
            write(brackets[: len(brackets) // 2])
            mark(table := (key(),))
            write(brackets[len(brackets) // 2 :])
            if len(brackets) == 4:
                mark(table := (*table, 0))
            write(" # [x]\n")
        for _ in range(draw(st.integers(0, 3))):
            write(draw(st.sampled_from(["", "\n", "# x = [\n", "  "])))
            pair(table, 0)
            write("\n")
    return text, lines


@given(documents())
def test_any_document(made: tuple[str, dict[KeyPath, int]]) -> None:
    text, lines = made
    assert set(paths(tomli.loads(text))) == set(lines)
    assert key_places(text) == lines
