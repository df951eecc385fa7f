"""What devices there are, how much of each is free, and what one engine holds of them."""

from warmd.devices.footprint import Footprint, TreeMemory, footprint, tree_memory
from warmd.devices.memory import HostMemory, host_memory, largest_node
from warmd.devices.nvml import (
    NO_GPU,
    Gpu,
    GpuError,
    GpuTrouble,
    Inventory,
    SickGpu,
    device_bytes,
    gpus,
    held_by_card,
    inventory,
)

__all__ = [
    "NO_GPU",
    "Footprint",
    "Gpu",
    "GpuError",
    "GpuTrouble",
    "HostMemory",
    "Inventory",
    "SickGpu",
    "TreeMemory",
    "device_bytes",
    "footprint",
    "gpus",
    "held_by_card",
    "host_memory",
    "inventory",
    "largest_node",
    "tree_memory",
]
