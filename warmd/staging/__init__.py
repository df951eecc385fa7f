"""Files into RAM before a start needs them: which they are, measured and held."""

from warmd.staging.file_set import FileSet, StagingError
from warmd.staging.holding import Holding
from warmd.staging.keeper import Keeper
from warmd.staging.request import Pace, Place, Request, StagingProgress
from warmd.staging.weights import WeightFiles, model_folder, weight_files

__all__ = [
    "FileSet",
    "Holding",
    "Keeper",
    "Pace",
    "Place",
    "Request",
    "StagingError",
    "StagingProgress",
    "WeightFiles",
    "model_folder",
    "weight_files",
]
