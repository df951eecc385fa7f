"""The daemon's face for operators: the admin API on a unix socket, and metrics."""

from warmd.control.api import ControlServer, Operations
from warmd.control.metrics import Metrics
from warmd.control.metrics_server import MetricsServer
from warmd.control.refusal import UnknownModelError
from warmd.control.unix_socket import ControlError, listen_privately

__all__ = [
    "ControlError",
    "ControlServer",
    "Metrics",
    "MetricsServer",
    "Operations",
    "UnknownModelError",
    "listen_privately",
]
