"""What devices there are, how much of each is free, and what one engine holds of them."""

from warmd.devices.footprint import Footprint, TreeMemory, footprint, tree_memory
from warmd.devices.inventory import Gpu, Inventory, gpus, inventory
from warmd.devices.memory import HostMemory, host_memory
from warmd.devices.nvml import GpuError, GpuTrouble, SickGpu
from warmd.devices.sweep import (
    HOST,
    CardUse,
    Sweep,
    device_bytes,
    held_by_card,
    host_sweep,
    sweep,
)

__all__ = [
    "HOST",
    "CardUse",
    "Footprint",
    "Gpu",
    "GpuError",
    "GpuTrouble",
    "HostMemory",
    "Inventory",
    "SickGpu",
    "Sweep",
    "TreeMemory",
    "device_bytes",
    "footprint",
    "gpus",
    "held_by_card",
    "host_memory",
    "host_sweep",
    "inventory",
    "sweep",
    "tree_memory",
]
