"""What the kernel refuses is told in one sentence with a remedy."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from warmd.launch import LaunchSpec
from warmd.launch.refusal import refusal


@pytest.mark.parametrize(
    ("stage", "number", "expected"),
    [
        ("fork", errno.EAGAIN, "TasksMax"),
        ("cwd", errno.ENOENT, "working folder /nowhere"),
        ("exec", errno.ENOENT, "/nowhere/python does not exist"),
        ("exec", errno.EACCES, "x bit"),
        ("exec", errno.E2BIG, "too long"),
        ("exec", errno.EINVAL, "NUL"),
        ("exec", errno.EIO, "Input/output error"),
        ("setup", errno.EMFILE, "Too many open files"),
    ],
)
def test_each_refusal_names_the_engine_and_the_cause(
    stage: str, number: int, expected: str
) -> None:
    spec = LaunchSpec("tiny.0", ("/nowhere/python",), {}, Path("/nowhere"))
    sentence = refusal(spec, stage, number)
    assert sentence.startswith("tiny.0 was not started: ")
    assert expected in sentence
    assert "\n" not in sentence
