"""What devices there are, how much of each is free, and what one engine holds of them."""

from warmd.devices.cgroups import MemoryLimit, limits_of, memory_limits
from warmd.devices.condition import (
    XID_REMEDY,
    Complaint,
    Condition,
    Recovery,
    Slowed,
    conditions,
    reset_of,
)
from warmd.devices.footprint import Footprint, TreeMemory, footprint, tree_memory
from warmd.devices.inventory import Gpu, Inventory, Listed, gpus, inventory
from warmd.devices.memory import HostMemory, host_memory, largest_node
from warmd.devices.nvml import NO_GPU, GpuError, GpuTrouble, SickGpu
from warmd.devices.processes import owners
from warmd.devices.survey import Holder, Survey, Surveyed, survey
from warmd.devices.sweep import (
    CardUse,
    Sweep,
    held_by_card,
    host_sweep,
    sweep,
)
from warmd.devices.xid import DriverLog, Xid, driver_log, xids
from warmd.ladder import HOST

__all__ = [
    "HOST",
    "NO_GPU",
    "XID_REMEDY",
    "CardUse",
    "Complaint",
    "Condition",
    "DriverLog",
    "Footprint",
    "Gpu",
    "GpuError",
    "GpuTrouble",
    "Holder",
    "HostMemory",
    "Inventory",
    "Listed",
    "MemoryLimit",
    "Recovery",
    "SickGpu",
    "Slowed",
    "Survey",
    "Surveyed",
    "Sweep",
    "TreeMemory",
    "Xid",
    "conditions",
    "driver_log",
    "footprint",
    "gpus",
    "held_by_card",
    "host_memory",
    "host_sweep",
    "inventory",
    "largest_node",
    "limits_of",
    "memory_limits",
    "owners",
    "reset_of",
    "survey",
    "sweep",
    "tree_memory",
    "xids",
]
