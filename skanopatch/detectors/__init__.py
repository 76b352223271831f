"""Detectors: from one embedding per clip to one normality score per clip."""

from skanopatch.detectors.calibrated import CalibratedDetector
from skanopatch.detectors.gmm import GMMDetector
from skanopatch.detectors.grouped import GroupedDetector
from skanopatch.detectors.joined import JoinedDetector
from skanopatch.detectors.knn import KNNDetector
from skanopatch.detectors.mahalanobis import MahalanobisDetector
from skanopatch.detectors.patch_knn import PatchKNNDetector
from skanopatch.detectors.subband import SubbandKNNDetector

__all__ = [
    "CalibratedDetector",
    "GMMDetector",
    "GroupedDetector",
    "JoinedDetector",
    "KNNDetector",
    "MahalanobisDetector",
    "PatchKNNDetector",
    "SubbandKNNDetector",
]
