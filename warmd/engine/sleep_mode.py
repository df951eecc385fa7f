"""vLLM's sleep mode: its control endpoints, and the order in which they must be called.

They exist with VLLM_SERVER_DEV_MODE=1 only. They take query parameters and ignore a JSON body, so
that a level in a body silently becomes level 1. No call here has a timeout of its own; one that is
cancelled midway leaves an engine of which nothing is known, to be replaced.
"""

from __future__ import annotations

import json

import aiohttp

from warmd.engine.errors import SleepError
from warmd.engine.quote import answered

_NO_ENDPOINT = 'this vLLM has no sleep endpoints: set engine.sleep = "off"'
_OTHER_FORM = 'this vLLM wants other arguments than warmd knows: set engine.sleep = "off"'
_SEE_LOG = "see the engine's log"
_NO_SLEEP = (
    "most likely the host had no RAM that could be pinned for the weights, or the GPU's memory"
    f" was in use by another engine meanwhile; {_SEE_LOG}"
)
_NO_WAKE = f"most likely the GPU had no room left for its weights and its KV cache; {_SEE_LOG}"
_NO_RELOAD = f"it would serve garbage without its weights; {_SEE_LOG}, or use level 1"


async def fall_asleep(session: aiohttp.ClientSession, level: int) -> None:
    """Put an engine to sleep that serves nobody any more, and make sure that it sleeps.

    What is still in flight is aborted behind a 200 (vllm#45520): drain first. Level 1 moves the
    weights to host RAM, level 2 drops them. Raises `SleepError`.
    """
    # Not mode=wait: a request that was missed would hold the GPU's lane for as long as it likes.
    call = f"/sleep?level={level}&mode=abort"
    await _post(session, call, _NO_SLEEP)
    if not await is_sleeping(session):
        raise SleepError(
            f"POST {call} was answered with HTTP 200, and still the engine is not asleep;"
            f" {_SEE_LOG}"
        )


async def wake_up(session: aiohttp.ClientSession, level: int) -> None:
    """Wake an engine that was put to sleep at `level`, and make sure that it is awake.

    A bare wake after level 2 serves garbage behind a 200: its weights are read again in between.
    A wake that fails isn't rolled back by vLLM. Raises `SleepError`.
    """
    last = "/wake_up"
    if level == 1:
        await _post(session, last, _NO_WAKE)
    else:
        await _post(session, "/wake_up?tags=weights", _NO_WAKE)
        await _post(session, "/collective_rpc", _NO_RELOAD, {"method": "reload_weights"})
        last = "/wake_up?tags=kv_cache"
        await _post(session, last, _NO_WAKE)
    if await is_sleeping(session):
        raise SleepError(
            f"POST {last} was answered with HTTP 200, and still the engine is not awake; {_SEE_LOG}"
        )


async def is_sleeping(session: aiohttp.ClientSession) -> bool:
    """Ask whether the engine sleeps, at any level, or in part. Raises `SleepError`."""
    status, body = await _call(session, "GET", "/is_sleeping")
    if status != 200:
        raise _refused("GET /is_sleeping", status, body, _SEE_LOG)
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    match answer:
        case {"is_sleeping": bool(sleeps)}:
            return sleeps
        case _:
            raise SleepError(
                f"GET /is_sleeping was answered with {answered(status, body)}, which says neither"
                f" yes nor no; {_SEE_LOG}"
            )


async def _post(
    session: aiohttp.ClientSession, call: str, meaning: str, body: dict[str, str] | None = None
) -> None:
    # 0.26 answers with nothing and 0.33 with JSON, which may say "awake" of one that isn't:
    # the status is all that counts, and /is_sleeping.
    status, answer = await _call(session, "POST", call, body)
    if status != 200:
        raise _refused(f"POST {call}", status, answer, meaning)


async def _call(
    session: aiohttp.ClientSession, method: str, call: str, body: dict[str, str] | None = None
) -> tuple[int, bytes]:
    headers = {"Accept-Encoding": "identity"}  # the session doesn't decompress
    try:
        async with session.request(method, call, json=body, headers=headers) as response:
            return response.status, await response.read()
    except (aiohttp.ClientError, OSError) as error:
        raise SleepError(
            f"{method} {call} broke off: {str(error) or type(error).__name__}; {_SEE_LOG}"
        ) from error


def _refused(call: str, status: int, body: bytes, meaning: str) -> SleepError:
    match status:
        case 404 | 405:
            meaning = _NO_ENDPOINT
        case 400 | 422:
            meaning = _OTHER_FORM
        case _:
            pass
    return SleepError(f"{call} was answered with {answered(status, body)}; {meaning}")
