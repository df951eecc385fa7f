"""Files into RAM before a start needs them: which they are, measured and held."""

from warmd.ladder import Place
from warmd.staging.caches import cache_files, remember_caches
from warmd.staging.file_set import FileSet, StagingError
from warmd.staging.holding import Holding
from warmd.staging.keeper import Keeper
from warmd.staging.program import Learnt, is_known, known_program, learn_program
from warmd.staging.request import Pace, Request, StagingProgress
from warmd.staging.weights import WeightFiles, model_folder, weight_files

__all__ = [
    "FileSet",
    "Holding",
    "Keeper",
    "Learnt",
    "Pace",
    "Place",
    "Request",
    "StagingError",
    "StagingProgress",
    "WeightFiles",
    "cache_files",
    "is_known",
    "known_program",
    "learn_program",
    "model_folder",
    "remember_caches",
    "weight_files",
]
