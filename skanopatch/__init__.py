"""Anomalous sound detection with scikit-learn's grammar."""

from typing import TYPE_CHECKING, Any

from skanopatch import datasets, metrics
from skanopatch.band_statistics import BandStatistics
from skanopatch.detectors import (
    GMMDetector,
    GroupedDetector,
    KNNDetector,
    MahalanobisDetector,
)
from skanopatch.evaluation import evaluate_dcase
from skanopatch.mel_statistics import MelStatistics
from skanopatch.metrics import make_anomaly_scorer
from skanopatch.model_selection import FitOnNormal
from skanopatch.patches import patchify, unpatchify
from skanopatch.patching import MelPatcher
from skanopatch.pipelines import make_anopatch_pipeline
from skanopatch.pseudo_anomalies import make_pseudo_anomalies

if TYPE_CHECKING:
    from skanopatch.embedding import AnoPatchEmbedder

__version__ = "0.1.0.dev0"

__all__ = [
    "AnoPatchEmbedder",
    "BandStatistics",
    "FitOnNormal",
    "GMMDetector",
    "GroupedDetector",
    "KNNDetector",
    "MahalanobisDetector",
    "MelPatcher",
    "MelStatistics",
    "datasets",
    "evaluate_dcase",
    "make_anomaly_scorer",
    "make_anopatch_pipeline",
    "make_pseudo_anomalies",
    "metrics",
    "patchify",
    "unpatchify",
]


def __getattr__(name: str) -> Any:
    """Import the embedder when it is asked for: timm and skorch double the time to start."""
    if name == "AnoPatchEmbedder":
        from skanopatch.embedding import AnoPatchEmbedder

        globals()[name] = AnoPatchEmbedder
        return AnoPatchEmbedder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
