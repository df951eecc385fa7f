"""The sweep, MIG slices and the state of GPUs, through the real pynvml over a fake library."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from nvml_rig import GIB, TWO_GPUS, ask, build, environment

from warmd.devices import HOST, DriverLog, driver_log, host_sweep, owners

SLICED = f"""\
gpu GPU-aaaa {80 * GIB} {2 * GIB} NVIDIA Fake 80GB
fact 0 mig 1
slice 0 0 1 MIG-one {40 * GIB} {GIB} NVIDIA Fake 80GB MIG 3g.40gb
slice 0 2 5 MIG-two {20 * GIB} {GIB} NVIDIA Fake 80GB MIG 2g.20gb
on 0.2 11 {GIB}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def says(tmp_path: Path) -> Path:
    file = tmp_path / "says"
    file.write_text(TWO_GPUS)
    return file


def test_each_process_counts_once_also_where_it_draws(library: Path, says: Path) -> None:
    says.write_text(
        f"{TWO_GPUS}process 0 11 {GIB}\ngraphics 0 11 {GIB}\ngraphics 0 12 5\n"
        f"process 1 11 7\nprocess 1 13 -1\ngraphics 1 13 -1\n"
    )
    cards = ask("sweep().cards", environment(library, says))
    assert {key: card["held"] for key, card in cards.items()} == {
        "GPU-aaaa": {"11": GIB, "12": 5},
        "GPU-bbbb": {"11": 7},
    }
    assert cards["GPU-bbbb"]["unsized"] == [13]
    assert (cards["GPU-aaaa"]["index"], cards["GPU-aaaa"]["used"]) == (0, 2 * GIB)


def test_a_gpu_that_can_not_draw_and_one_that_is_lost(library: Path, says: Path) -> None:
    refused = "error nvmlDeviceGetGraphicsRunningProcesses 3\n"
    says.write_text(f"{TWO_GPUS}{refused}process 0 11 5\nsick 15\n")
    env = environment(library, says)
    assert ask("{k: sum(c.held.values()) for k, c in sweep().cards.items()}", env) == {
        "GPU-aaaa": 5,
        "GPU-bbbb": 0,
    }
    assert ask("[(s.index, s.error.trouble) for s in sweep().sick]", env) == [[2, "lost"]]
    assert ask("held_by_card([11])", env) is None, "the lost one may hold some too"
    says.write_text("error nvmlInit 9\n")
    assert ask("sweep()", env)["trouble"] == "no-driver"


def test_the_slices_of_a_gpu_in_mig_mode_are_devices(library: Path, says: Path) -> None:
    says.write_text(SLICED + f"gpu GPU-bbbb {24 * GIB} 0 NVIDIA Fake 24GB\nfact 1 mig 0\n")
    env = environment(library, says)
    assert ask("[(g.index, g.slice, g.uuid, g.total) for g in gpus()]", env) == [
        [0, 0, "MIG-one", 40 * GIB],
        [0, 2, "MIG-two", 20 * GIB],
        [1, None, "GPU-bbbb", 24 * GIB],
    ]
    assert ask("{k: c.held for k, c in sweep().cards.items()}", env) == {
        "MIG-one": {},
        "MIG-two": {"11": GIB},
        "GPU-bbbb": {},
    }
    assert ask("held_by_card([11])", env) == {"MIG-two": GIB}


def test_slices_that_share_memory_and_none_at_all(library: Path, says: Path) -> None:
    shared = f"slice 0 3 1 MIG-three {40 * GIB} 0 NVIDIA Fake 80GB MIG 1c.3g.40gb\n"
    bare = f"gpu GPU-cccc {24 * GIB} 0 NVIDIA Fake 24GB\nfact 1 mig 1\n"
    says.write_text(SLICED + shared + bare)
    env = environment(library, says)
    assert ask("list(sweep().cards)", env) == ["MIG-two"]
    assert ask("[(s.uuid, s.error.trouble) for s in sweep().sick]", env) == [
        ["MIG-one", "shared-slice"],
        ["MIG-three", "shared-slice"],
        ["GPU-cccc", "no-slice"],
    ]
    assert ask("sum(held_by_card([11]).values())", env) == GIB, (
        "what nobody may use holds nothing of ours"
    )


def test_how_a_gpu_fares(library: Path, says: Path) -> None:
    facts = {
        "watts": 412_500,
        "limit": 700_000,
        "sm": 1200,
        "sm-most": 1980,
        "memory": 2619,
        "reasons": 0x44,
        "ecc": 1,
        "uncorrected": 2,
        "pending": 1,
        "recovery": 1,
        "bus": 0x65,
    }
    says.write_text(TWO_GPUS + "".join(f"fact 0 {word} {n}\n" for word, n in facts.items()))
    env = environment(library, says)
    told = ask(
        "vars(conditions()[0]) | {'recovery': conditions()[0].recovery.said, 'xids': 0}"
        " | {'slowed': [each.said for each in conditions()[0].slowed]}",
        env,
    )
    assert told == {
        "index": 0,
        "watts": 412.5,
        "watts_limit": 700.0,
        "sm_mhz": 1200,
        "sm_mhz_most": 1980,
        "memory_mhz": 2619,
        "memory_mhz_most": None,
        "ecc": True,
        "uncorrected": 2,
        "xids": 0,
        "remap_pending": True,
        "remap_failed": False,
        "recovery": "a reset of the GPU",
        "slowed": ["power limit", "heat, by hardware"],
    }
    silent = "conditions()[1] == Condition(1, xids=conditions()[1].xids)"
    assert ask(silent, env) is True, "a card that tells nothing"
    says.write_text(TWO_GPUS + "error nvmlDeviceGetPowerUsage 15\n")
    assert ask("conditions()", env) == {}, "one that is lost isn't asked on"


def test_a_fake_driver_stands_many_threads(library: Path, says: Path) -> None:
    says.write_text(f"{TWO_GPUS}process 0 11 {GIB}\n")
    many = "list(__import__('concurrent.futures').futures.ThreadPoolExecutor(8).map("
    asked = f"{many}lambda _: sweep().cards['GPU-aaaa'].held[11], range(80)))"
    assert set(ask(asked, environment(library, says))) == {GIB}


BLOCK = "import sys; block = bytearray(64 << 20); print('up', flush=True); sys.stdin.read()"
MAIN = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-I", "-S", "-c", {BLOCK!r}], stdin=subprocess.PIPE)
print(child.pid, flush=True)
sys.stdin.read()
child.communicate()
"""
SHIM = f"""
import subprocess, sys
main, orphan = (
    subprocess.Popen([sys.executable, "-I", "-S", "-c", program], stdin=subprocess.PIPE)
    for program in ({MAIN!r}, {BLOCK!r})
)
print(main.pid, orphan.pid, flush=True)
sys.stdin.read()
main.communicate()
orphan.communicate()
"""


@pytest.fixture
def tree() -> Iterator[tuple[int, int, int, int]]:
    """A shim, an engine's main process, its child, and an orphan that the shim has adopted.

    The last two hold 64 MiB each.
    """
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", SHIM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as shim:
        assert shim.stdout is not None
        lines = [shim.stdout.readline().split() for _ in range(4)]  # two of them say "up"
        [main, orphan] = next(line for line in lines if len(line) == 2)
        [child] = next(line for line in lines if len(line) == 1 and line != ["up"])
        yield shim.pid, int(main), int(child), int(orphan)
        shim.communicate()


def test_whose_a_process_is(tree: tuple[int, int, int, int]) -> None:
    shim, main, child, orphan = tree
    assert owners({main: "m.0"}) == {main: "m.0", child: "m.0", orphan: "m.0"}
    below_us = owners({shim: "m.0"})
    assert below_us.keys() == {shim, main, child, orphan}, "nobody's shim are we"
    assert owners({2**22 + 1: "gone"}) == {}


def test_without_a_gpu_the_hosts_memory_is_the_device(tree: tuple[int, int, int, int]) -> None:
    _, main, child, orphan = tree
    found = host_sweep([main, 2**22 + 1])  # the second is nobody's number
    assert list(found.cards) == [HOST]
    card = found.cards[HOST]
    assert card.held.keys() == {main, child, orphan}
    for pid in (child, orphan):
        assert 64 * 2**20 < card.held[pid] < 100 * 2**20
    assert sum(card.held.values()) < card.used < card.total
    assert card.others is None, "nobody reads all processes for each look"


def test_who_else_holds_most_of_the_hosts_memory_is_named() -> None:
    hoard = "import sys; held = b'x' * (300 << 20); print('up', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hoard]
    # Not below this process, as those of others are: its parent has ended.
    away = f"import subprocess, sys; print(subprocess.Popen({command!r}, stdin=0, stdout=1).pid)"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", away], **pipes) as parent:  # type: ignore[call-overload]  # a table
        said = {parent.stdout.readline().strip(), parent.stdout.readline().strip()}
        [number] = said - {"up"}
        parent.wait(10)
        others = host_sweep([], names=True).cards[HOST].others
        assert others is not None
        assert os.getpid() not in others
        larger = len(others) == 3 and min(others.values()) > 300 * 2**20
        assert larger or others[int(number)] > 300 * 2**20
        ours = host_sweep([int(number)], names=True).cards[HOST].others
        assert int(number) not in (ours or {})
        parent.communicate()


def test_the_kernels_log_is_read_without_waiting(tmp_path: Path) -> None:
    # One record a read, as /dev/kmsg gives them (pipe(2), O_DIRECT).
    keeper, writer = os.pipe2(os.O_DIRECT)
    log = Path(f"/proc/self/fd/{keeper}")
    for us, text in ((1, "usb 1-1: new device"), (2, "NVRM: Xid (PCI:0000:65:00): 79, gone")):
        os.write(writer, f"2,{us},{us},-;{text}\n".encode())
    found: list[object] = []
    reader = threading.Thread(target=lambda: found.append(driver_log(log)), daemon=True)
    reader.start()
    reader.join(5)
    assert not reader.is_alive(), "it waits for more"
    [told] = found
    assert isinstance(told, DriverLog)
    assert [(xid.number, xid.said, xid.stamp) for xid in told.xids] == [(79, "gone", 2e-6)]
    os.close(writer)
    os.close(keeper)
    assert driver_log(tmp_path / "nothing") is None
