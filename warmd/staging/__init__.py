"""Weights into the page cache: which files they are, measured and held."""

from warmd.staging.file_set import FileSet, StagingError
from warmd.staging.stager import Holding, Stager, StagingProgress
from warmd.staging.weights import WeightFiles, model_folder, weight_files

__all__ = [
    "FileSet",
    "Holding",
    "Stager",
    "StagingError",
    "StagingProgress",
    "WeightFiles",
    "model_folder",
    "weight_files",
]
