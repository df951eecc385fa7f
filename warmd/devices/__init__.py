"""What devices there are and how much of each is free."""

from warmd.devices.memory import HostMemory, host_memory

__all__ = ["HostMemory", "host_memory"]
