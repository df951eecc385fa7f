"""What warmth brought and cost over weeks, reckoned from the history: `warmctl report`."""

from warmd.reckoning.account import (
    Account,
    Delays,
    Durations,
    FirstBytes,
    Lateness,
    ModelAccount,
    Why,
    Windows,
)
from warmd.reckoning.figures import Manner, account, reckon

__all__ = [
    "Account",
    "Delays",
    "Durations",
    "FirstBytes",
    "Lateness",
    "Manner",
    "ModelAccount",
    "Why",
    "Windows",
    "account",
    "reckon",
]
