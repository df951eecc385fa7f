"""The box that the other tests of this tier stand on is what it says: a machine of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from box import RELEASES, Box, BoxError, Share, base

pytestmark = pytest.mark.parametrize("release", RELEASES)


def test_a_box_is_a_booted_machine_of_its_own(release: str, tmp_path: Path) -> None:
    (tmp_path / "word").write_text("from outside\n")
    with Box(base(release), shares=[Share(tmp_path, "/mnt/share")]) as box:
        assert box.run("cat", "/proc/1/comm").stdout.strip() == "systemd"
        assert box.run("systemctl", "is-system-running").stdout.strip() == "running"
        assert box.run("cat", "/mnt/share/word").stdout == "from outside\n"
        assert box.run("touch", "/mnt/share/new", check=False).returncode
        assert [line.split()[0] for line in _links(box)] == ["lo"]
        assert box.run("id", "-un", user="nobody").stdout.strip() == "nobody"
        with pytest.raises(BoxError, match="No such file"):
            box.run("ls", "/nowhere")
        group = Path("/proc", str(box.pid1), "cgroup").read_text()
        folder = box._folder
    assert folder.name in group
    assert not Path("/proc", str(box.pid1)).exists()
    assert not folder.exists()
    assert not box._group.exists()


def test_what_a_box_wrote_is_there_after_a_power_cut(release: str, tmp_path: Path) -> None:
    upper = tmp_path / "disk"
    with Box(base(release), upper=upper) as box:
        box.write("/etc/systemd/system/count.service", _UNIT)
        box.run("systemctl", "enable", "--now", "count")
    with Box(base(release), upper=upper) as box:
        assert box.shows("count", "Result") == "success"
        assert box.path("/var/count").read_text() == "one\none\n"
        assert not box.path("/run/gone").exists()
    with Box(upper, base(release)) as over:
        assert over.path("/var/count").read_text() == "one\none\none\n"
    assert (upper / "var/count").read_text() == "one\none\n"


_UNIT = """[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=sh -c 'echo one >> /var/count'
[Install]
WantedBy=multi-user.target
"""


def _links(box: Box) -> list[str]:
    return box.run("ip", "-brief", "link").stdout.splitlines()
