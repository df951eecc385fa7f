"""What the admin API and the metrics share: what their HTTP library logs, and a last moment."""

from __future__ import annotations

import logging

from aiohttp import http_exceptions

FIRST_WORD_S = 0.05
"""Who was accepted the moment before the end has its request on the way."""


def _is_ours(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, http_exceptions.HttpProcessingError)


# Bugs of ours, but not the garbage that strangers send.
quiet_log = logging.getLogger("warmd.control.http")
quiet_log.addFilter(_is_ours)
