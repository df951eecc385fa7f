"""What the admin API's HTTP library logs: bugs of ours, but not the garbage that strangers send."""

from __future__ import annotations

import logging

from aiohttp import http_exceptions


def _is_ours(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, http_exceptions.HttpProcessingError)


quiet_log = logging.getLogger("warmd.control.http")
quiet_log.addFilter(_is_ours)
