"""Files into RAM before a start needs them: which they are, measured and held."""

from warmd.ladder import Place
from warmd.staging.caches import cache_files, remember_caches
from warmd.staging.checksums import HUGGING_FACE, MismatchError, expected_digests
from warmd.staging.file_set import FileSet, KeeperEndedError, StagingError
from warmd.staging.holding import Holding
from warmd.staging.keeper import Keeper
from warmd.staging.program import Learnt, is_known, known_program, learn_program
from warmd.staging.proofs import FIRST, Proofs, identity_of
from warmd.staging.published import published_copy
from warmd.staging.request import Left, Pace, Request, StagingProgress
from warmd.staging.weights import knows_format, model_folder, weight_files

__all__ = [
    "FIRST",
    "HUGGING_FACE",
    "FileSet",
    "Holding",
    "Keeper",
    "KeeperEndedError",
    "Learnt",
    "Left",
    "MismatchError",
    "Pace",
    "Place",
    "Proofs",
    "Request",
    "StagingError",
    "StagingProgress",
    "cache_files",
    "expected_digests",
    "identity_of",
    "is_known",
    "known_program",
    "knows_format",
    "learn_program",
    "model_folder",
    "published_copy",
    "remember_caches",
    "weight_files",
]
