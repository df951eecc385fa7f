from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from warmd.devices import tree_memory

MIB = 2**20
ROOT = Path(__file__).parents[2]
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-I", "-S", "-c",
    "import sys; block = b'x' * (64 << 20); print('up', flush=True); sys.stdin.read()"],
    stdin=subprocess.PIPE)
sys.stdin.read()
child.communicate()
"""


def test_a_tree_counts_its_children() -> None:
    with subprocess.Popen(
        [sys.executable, "-I", "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        found = tree_memory(parent.pid)
        assert found is not None
        assert len(found.pids) == 2
        assert found.pids[0] == parent.pid
        assert found.shared_once
        assert 64 * MIB < found.bytes < 100 * MIB
        parent.communicate()
    assert tree_memory(parent.pid) is None


def test_where_page_tables_may_not_be_read_it_counts_by_rss() -> None:
    # A process of root is a stranger's to nobody: its smaps_rollup is closed, its statm is open.
    we_are_root = os.geteuid() == 0
    program = f"""
import os
from warmd.devices import tree_memory
if {we_are_root}:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
found = tree_memory({os.getpid() if we_are_root else 1})
assert found is not None and not found.shared_once and found.bytes > {MIB}, found
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=20)
