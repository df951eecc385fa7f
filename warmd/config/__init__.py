"""TOML to frozen, validated settings; every error at once, with file, line and remedy."""

from __future__ import annotations

from warmd.config.access_checks import doubts_about_access
from warmd.config.access_settings import KeySettings, TlsSettings
from warmd.config.address import Address
from warmd.config.api_keys import ApiKey, read_api_keys
from warmd.config.bygone import bygone
from warmd.config.checks import OWN_GPUS
from warmd.config.credentials import file_named
from warmd.config.describe import describe
from warmd.config.difference import Difference, differences
from warmd.config.engine_args import memory_flag, refuse_args
from warmd.config.fields import AUTO
from warmd.config.hours import host_zone
from warmd.config.loading import DEFAULT_FILE, load, load_to_run, load_what_is_sound
from warmd.config.model_settings import (
    IdleSettings,
    ModelSettings,
    ScaleSettings,
    WarmupKind,
    WarmupSettings,
    WindowSettings,
)
from warmd.config.problem import ConfigError, Problem, dotted, quoted, quoted_key
from warmd.config.settings import (
    CPU_KV_SPACE,
    ControlSettings,
    EngineSettings,
    GatewaySettings,
    HistorySettings,
    HostSettings,
    MetricsSettings,
    RamSettings,
    RestartSettings,
    Settings,
    SleepMode,
)
from warmd.config.shares import overbooked
from warmd.config.table import Table
from warmd.config.units import (
    Share,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)

__all__ = [
    "AUTO",
    "CPU_KV_SPACE",
    "DEFAULT_FILE",
    "OWN_GPUS",
    "Address",
    "ApiKey",
    "ConfigError",
    "ControlSettings",
    "Difference",
    "EngineSettings",
    "GatewaySettings",
    "HistorySettings",
    "HostSettings",
    "IdleSettings",
    "KeySettings",
    "MetricsSettings",
    "ModelSettings",
    "Problem",
    "RamSettings",
    "RestartSettings",
    "ScaleSettings",
    "Settings",
    "Share",
    "SleepMode",
    "Table",
    "TlsSettings",
    "WarmupKind",
    "WarmupSettings",
    "WindowSettings",
    "as_toml",
    "bygone",
    "describe",
    "differences",
    "dotted",
    "doubts_about_access",
    "file_named",
    "format_duration",
    "format_size",
    "host_zone",
    "load",
    "load_to_run",
    "load_what_is_sound",
    "memory_flag",
    "overbooked",
    "parse_duration",
    "parse_size",
    "quoted",
    "quoted_key",
    "read_api_keys",
    "refuse_args",
]
