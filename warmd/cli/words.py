"""What a status says, in words: pure functions of the daemon's JSON, in plain ASCII."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SIZES = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1))
_SPANS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
_HEIGHTS = {"staged": 1, "asleep": 2, "hot": 3}
_LONGEST_CAUSE = 30
# Of many replicas, the phase that an operator must hear of first.
_URGENCY = (
    *("failed", "backing-off", "adopting", "starting", "warming", "waking", "draining"),
    *("falling-asleep", "stopping", "down", "asleep", "ready"),
)


def span(seconds: float, units: int = 2) -> str:
    """Say a time span: `12 s`, `4 min 10 s`, `2 h 5 min`; with `units` 1 `2 h`."""
    rest = max(0, int(seconds))
    parts: list[tuple[int, str]] = []
    for unit, length in _SPANS:
        count, rest = divmod(rest, length)
        if parts or count or unit == "s":
            parts.append((count, unit))
    return " ".join(f"{n} {unit}" for n, unit in parts[:units] if n or len(parts) == 1)


def amount(done: int, total: int) -> str:
    """Say a part of some bytes in the whole's unit: `1.2 of 16.1 GiB`."""
    unit, size = next((pair for pair in _SIZES if total >= pair[1]), _SIZES[-1])
    digits = 0 if size == 1 else 1
    return f"{done / size:.{digits}f} of {total / size:.{digits}f} {unit}"


def kind_words(kind: str) -> str:
    """Name a kind of files for people: `compile cache`."""
    return kind.replace("-", " ")


def warnings(answer: Mapping[str, Any]) -> list[str]:
    """What must be said beside an answer, each in one line; nothing from an older daemon."""
    told = (answer.get("history_trouble"), *answer.get("warnings", ()))
    return [f"warning: {clean(each)}" for each in told if each]


def model_doing(model: Mapping[str, Any], now: float) -> str:
    """Say what a model is doing; of several replicas, how many do what. `now` is Unix seconds."""
    replicas = model["replicas"]
    if len(replicas) == 1:
        return replica_doing(replicas[0], model, now)
    phases = [replica["phase"] for replica in replicas]
    known = [phase for phase in _URGENCY if phase in phases]
    known += sorted(set(phases) - set(_URGENCY))
    counts = (f"{phases.count(phase)} {phase.replace('-', ' ')}" for phase in known)
    return ", ".join(counts) or "no replica"


def replica_doing(
    replica: Mapping[str, Any], model: Mapping[str, Any], now: float, *, beside_notes: bool = False
) -> str:
    """Say what one replica is doing: `starting 63 %: weights`. `now` is Unix seconds.

    `beside_notes`: what holds its model up stands there already, as a whole sentence.
    """
    match replica["phase"]:
        case "starting" | "warming" if replica["failures"]:
            return f"try {replica['failures'] + 1}, {_start(replica['start'])}"
        case "starting" | "warming":
            return _start(replica["start"])
        case "backing-off" if model["target"] not in ("hot", "asleep"):
            return "failed, tried again when wanted"
        case "backing-off" if replica["retry_at"] is not None and replica["retry_at"] <= now:
            waits = "failed, waits for its next try"
            return waits if beside_notes else _held_up(model) or waits
        case "backing-off" if replica["retry_at"] is not None:
            return f"backing off, next try in {span(replica['retry_at'] - now, 1)}"
        case "down":
            return _down(replica, model)
        case "asleep":
            return f"{_rehearsal(replica)}asleep{_held(replica)}"
        case "falling-asleep":
            return f"{_rehearsal(replica)}falling asleep for {span(now - replica['since'], 1)}"
        case "waking":
            about = f" of about {span(replica['expected'], 1)}" if replica.get("expected") else ""
            return f"{_rehearsal(replica)}waking for {span(now - replica['since'], 1)}{about}"
        case "adopting":
            return "being taken over"
        case "ready" if replica.get("stale"):
            return "ready, with its old settings"
        case phase:
            return str(phase).replace("-", " ")


def model_notes(model: Mapping[str, Any], now: float) -> list[str]:
    """Sentences on a model that need a line of their own: an override's end, what holds it up."""
    notes = []
    if model["override_until"] is not None:
        notes.append(f"set by an operator for another {span(model['override_until'] - now)}")
    if model.get("calendar"):
        zone = f" ({model['timezone']})" if model.get("timezone") else ""
        notes.append(f"calendar{zone}: {model['calendar']}")
    told = [replica["reason"] for replica in model["replicas"] if trouble(replica)]
    if model["held_up_by"] and not any(reason in model["held_up_by"] for reason in told):
        notes.append(f"held up: {model['held_up_by']}")
    busy = any(each["busy"] or each["partial"] for each in model.get("staged", ()))
    notes += staged_lines(model) if busy else ()
    return [clean(note) for note in notes]


def staged_lines(model: Mapping[str, Any]) -> list[str]:
    """Say of each kind of a model's files what of it is in RAM; nothing where there is none."""
    return [
        clean(f"{each['kind'].replace('-', ' ')}: {_staged(each, model.get('held_up_by') or '')}")
        for each in model.get("staged", ())
        if each["total"] or each["problem"]
    ]


def _staged(each: Mapping[str, Any], told: str) -> str:
    """Say what is in RAM of it, and why not all, where that isn't `told` already."""
    if each["busy"]:
        paused = f", paused: {each['paused']}" if each["paused"] else ""
        return f"staging {amount(each['done'], each['total'])}{paused}"
    if each["held"]:
        return f"{amount(each['resident'], each['total'])} in RAM"
    there = f"{amount(each['resident'], each['total'])} in RAM" if each["partial"] else ""
    problem = each["problem"] if each["problem"] and each["problem"] not in told else ""
    why = problem or ("" if there else "not held in RAM")
    return ", ".join(part for part in (there, why) if part)


def trouble(replica: Mapping[str, Any]) -> str | None:
    """Why a replica is in trouble, None where it isn't."""
    if replica["phase"] not in ("failed", "backing-off"):
        return None
    failures = replica["failures"]
    times = f" ({failures} failures in a row)" if failures > 1 else ""
    model = replica["name"].rpartition(".")[0]
    remedy = (
        f"; once that is mended: warmctl set {model} auto, or reload where it was the config"
        if replica["phase"] == "failed"
        else ""
    )
    return clean(f"{replica['reason']}{times}{remedy}")


def rung_reached(model: Mapping[str, Any]) -> float | None:
    """When the model came to stand where it stands (Unix seconds): its warmest replica's time."""
    heights = [_HEIGHTS.get(replica["rung"], 0) for replica in model["replicas"]]
    warmest = max(heights, default=0)
    times = [
        replica["since"]
        for replica, height in zip(model["replicas"], heights, strict=True)
        if height == warmest
    ]
    return min(times, default=None)


def card_line(card: Mapping[str, Any]) -> str:
    """Say what of a card is taken by whom, which adds up, and how much the driver finds free."""
    counted = (*card["engines"], *card["foreign"])
    shares = [
        f"{each['who']} {'keeps ' if each['sleeps'] else ''}{_whole(each['bytes'])}"
        for each in counted
    ]
    headroom = card["taken"] - sum(each["bytes"] for each in counted)
    if headroom > 0:  # of it strangers take theirs first
        shares.append(f"headroom {_whole(headroom)}")
    free = "nobody looks" if card["free"] is None else f"{_whole(card['free'])} free at the moment"
    taken, whose = amount(card["taken"], card["total"]), f" ({', '.join(shares)})" if shares else ""
    return clean(f"{card['words']}: {taken} taken{whose}, {free}")


def card_troubles(card: Mapping[str, Any]) -> list[str]:
    """Say what is wrong with a card: that nobody can look, and who holds more than promised."""
    trouble = card["trouble"]
    told = [] if trouble is None else [f"nobody can tell what it holds: {trouble}"]
    if card.get("quarantine") is not None:
        told = [f"quarantined, nothing is started on it: {card['quarantine']}: {card['remedy']}"]
    return [clean(each) for each in (*told, *card["mismatches"])]


def clean(text: str) -> str:
    """Make one harmless line of it: an engine's last words may carry escape codes."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def held_asleep(sleep: Mapping[str, Any]) -> str:
    """Say what a sleeper holds, such as `44.8 GiB of RAM and 1.6 GiB of VRAM`."""
    held = ((sleep["host_ram"], "RAM"), (sleep["device_kept"], "VRAM"))
    return " and ".join(f"{_whole(size)} of {where}" for size, where in held if size)


def _held(replica: Mapping[str, Any]) -> str:
    held = held_asleep(replica["sleep"]) if replica.get("sleep") else ""
    return f", holds {held}" if held else ""


def _rehearsal(replica: Mapping[str, Any]) -> str:
    return "rehearsal: " if replica.get("rehearses") else ""


def _held_up(model: Mapping[str, Any]) -> str | None:
    """Name in short what holds it up: the whole sentence has a line of its own."""
    if not model["held_up_by"]:
        return None
    what = clean(model["held_up_by"]).partition(":")[0]
    return f"held up: {what if len(what) <= _LONGEST_CAUSE else what[:_LONGEST_CAUSE] + '...'}"


def _start(start: Mapping[str, Any] | None) -> str:
    if start is None:
        return "starting"
    stage = str(start["stage"]).replace("-", " ")
    if not start["expected"]:
        return f"starting {span(start['elapsed'])}: {stage}"
    # Past the expected time, 100 % would be a promise that is already broken.
    percent = min(99, int(100 * start["elapsed"] / start["expected"]))
    return f"starting {percent} %: {stage}"


def _down(replica: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    staging = model["staging"]
    to_be_staged = model["target"] == "staged" and replica["rung"] == "cold"
    if to_be_staged or (staging["done"] < staging["total"] and model["target"] != "cold"):
        if not staging["total"] or not staging.get("busy", True):
            return "not staged yet"
        return f"staging {amount(staging['done'], staging['total'])}"
    if replica["rung"] == "staged":
        return f"{_whole(staging['total'])} in RAM"
    return "down"


def _whole(size: int) -> str:
    return amount(size, size).split(" of ")[1]


def brief(seconds: float) -> str:
    """Say a short time: `52 ms`, `3.4 s`."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
