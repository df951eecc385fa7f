"""Looks at the host in one run and names a remedy for everything that is wrong; changes nothing."""

from warmd.doctor.daemon import DaemonAnswer
from warmd.doctor.examination import examine
from warmd.doctor.finding import Finding, Level

__all__ = ["DaemonAnswer", "Finding", "Level", "examine"]
