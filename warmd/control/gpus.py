"""/gpus: who holds what of each GPU, how it fares, what is promised of it; /gpu/return, forget."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aiohttp import web

from warmd.control.asked import read_asked, read_word
from warmd.control.handler import Handler, Observed
from warmd.control.refusal import RefusedError, refusals
from warmd.devices import Condition, GpuError, Survey, Surveyed
from warmd.status import CardStatus

_SEE = "see nvidia-smi, and journalctl -k | grep -iE 'nvrm|xid'"


class Surveys(Observed, Protocol):
    """Who can look at the GPUs, and knows what is promised of them."""

    async def gpus(self) -> Survey:
        """Look at all GPUs. Raises `GpuError`, and `TimeoutError` where the driver hangs."""

    async def return_gpu(self, name: str) -> str:
        """Take a GPU back into service, by index or UUID; return a sentence.

        Raises `LookupError` and `ValueError` with a sentence where there is none, or it can't be.
        """

    async def forget_gpu(self, name: str) -> str:
        """Do without a GPU that is gone for good, by index or UUID; return sentences, by line.

        Raises as `return_gpu` does; also `ConfigError` where the config can't do without it.
        """


def gpus_handler(surveys: Surveys) -> Handler:
    """Make the handler."""

    async def handle(_: web.Request) -> web.Response:
        try:
            found = await surveys.gpus()
        except TimeoutError:
            return _refused("the NVIDIA driver has been asked and doesn't answer")
        except GpuError as error:
            return _refused(str(error))
        ledger = [_promised(card) for card in surveys.snapshot().cards]
        return web.json_response(_facts(found, time.time()) | {"ledger": ledger})

    return handle


def gpu_handler(do: Callable[[str], Awaitable[str]]) -> Handler:
    """Make the handler that has something done to the GPU that an operator names."""

    async def handle(request: web.Request) -> web.Response:
        name = read_word(read_asked(await request.read(), ("gpu",)), "gpu")
        try:
            with refusals(f"{name} is not forgotten: the config can't do without it"):
                return web.json_response({"sentence": await do(name)})
        except LookupError as unknown:
            raise RefusedError(404, str(unknown)) from None

    return handle


def _refused(sentence: str) -> web.Response:
    return web.json_response({"error": f"{sentence}: {_SEE}"}, status=503)


def _facts(found: Survey, now: float) -> dict[str, Any]:
    return {
        "time": now,
        "no_gpu": found.no_gpu,
        "gpus": [_card(card, now) for card in found.cards],
        "sick": [
            {"index": each.index, "uuid": each.uuid, "sentence": str(each.error)}
            for each in found.sick
        ],
    }


def _promised(card: CardStatus) -> dict[str, Any]:
    """Say what of a card is whose, in bytes that add up to its total where nobody has too much.

    `headroom`: what of it is left beside strangers and engines that hold more than their promise.
    """
    foreign = sum(each.held for each in card.foreign)
    named = sum(each.bytes for each in card.engines) + foreign
    return {
        "key": card.key,
        "words": card.words,
        "total": card.total,
        "reserved": card.reserved,
        "held": sum(each.held for each in card.engines if not each.sleeps),
        "sleepers": sum(each.bytes for each in card.engines if each.sleeps),
        "foreign": foreign,
        "headroom": max(0, card.taken - named),
        "free": max(0, card.total - card.taken),
        "quarantine": card.quarantine,
        "remedy": card.remedy,
    }


def _card(card: Surveyed, now: float) -> dict[str, Any]:
    use = card.use
    return {
        "key": use.key,
        "index": use.index,
        "driver_index": use.index if card.driver_index is None else card.driver_index,
        "new": card.is_new,
        "slice": use.slice,
        "name": use.name,
        "total": use.total,
        "used": use.used,
        "held_by": [
            {
                "pid": holder.pid,
                "name": holder.name,
                "replica": holder.owner,
                "bytes": holder.bytes,
            }
            for holder in card.holders
        ],
        "condition": None if card.condition is None else _condition(card.condition, now),
    }


def _condition(found: Condition, now: float) -> dict[str, Any]:
    xids = [
        {"number": xid.number, "at": xid.at, "said": xid.said, "grave": xid.is_grave}
        for xid in found.xids or ()
    ]
    return {
        "watts": found.watts,
        "watts_limit": found.watts_limit,
        "sm_mhz": found.sm_mhz,
        "sm_mhz_most": found.sm_mhz_most,
        "memory_mhz": found.memory_mhz,
        "memory_mhz_most": found.memory_mhz_most,
        "slowed_by": [cause.said for cause in found.slowed],
        "ecc": found.ecc,
        "uncorrected_errors": found.uncorrected,
        "remap_pending": found.remap_pending,
        "remap_failed": found.remap_failed,
        "driver_asks_for": None if found.recovery is None else found.recovery.said,
        "xids": None if found.xids is None else xids,
        "troubles": [dataclasses.asdict(each) for each in found.complaints(now)],
    }
