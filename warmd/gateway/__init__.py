"""The OpenAI-compatible front: find the model, hold until ready, stream."""

from warmd.gateway.agent_check import AgentCheck
from warmd.gateway.app import Gateway
from warmd.gateway.errors import GatewayError
from warmd.gateway.inherited import inherited_sockets
from warmd.gateway.keys import Keys
from warmd.gateway.limits import GatewayLimits
from warmd.gateway.models import (
    Ask,
    Lease,
    ModelCard,
    Models,
    Refusal,
    Refused,
    RequestDone,
    RequestRecord,
)
from warmd.gateway.server import Address
from warmd.gateway.tls import Certificate

__all__ = [
    "Address",
    "AgentCheck",
    "Ask",
    "Certificate",
    "Gateway",
    "GatewayError",
    "GatewayLimits",
    "Keys",
    "Lease",
    "ModelCard",
    "Models",
    "Refusal",
    "Refused",
    "RequestDone",
    "RequestRecord",
    "inherited_sockets",
]
