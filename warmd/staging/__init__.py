"""Files into RAM before a start needs them: which they are, measured and held."""

from warmd.staging.checksums import HUGGING_FACE, MismatchError, expected_digests
from warmd.staging.holding import Holding
from warmd.staging.keeper import Keeper
from warmd.staging.published import published_copy
from warmd.staging.request import Pace, Place, Request, StagingProgress
from warmd.staging.weights import StagingError, WeightFiles, weight_files

__all__ = [
    "HUGGING_FACE",
    "Holding",
    "Keeper",
    "MismatchError",
    "Pace",
    "Place",
    "Request",
    "StagingError",
    "StagingProgress",
    "WeightFiles",
    "expected_digests",
    "published_copy",
    "weight_files",
]
