"""Weights into the page cache: which files they are, measured and held."""

from warmd.staging.stager import Holding, Stager, StagingProgress
from warmd.staging.weights import StagingError, WeightFiles, weight_files

__all__ = [
    "Holding",
    "Stager",
    "StagingError",
    "StagingProgress",
    "WeightFiles",
    "weight_files",
]
