"""Anomalous sound detection with scikit-learn's grammar."""

from skanopatch import datasets, metrics
from skanopatch.detectors import (
    GMMDetector,
    GroupedDetector,
    KNNDetector,
    MahalanobisDetector,
)
from skanopatch.embedding import AnoPatchEmbedder
from skanopatch.mel_statistics import MelStatistics
from skanopatch.metrics import make_anomaly_scorer
from skanopatch.model_selection import FitOnNormal
from skanopatch.patches import patchify, unpatchify
from skanopatch.patching import MelPatcher

__version__ = "0.1.0.dev0"

__all__ = [
    "AnoPatchEmbedder",
    "FitOnNormal",
    "GMMDetector",
    "GroupedDetector",
    "KNNDetector",
    "MahalanobisDetector",
    "MelPatcher",
    "MelStatistics",
    "datasets",
    "make_anomaly_scorer",
    "metrics",
    "patchify",
    "unpatchify",
]
