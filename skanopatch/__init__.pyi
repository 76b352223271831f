from . import datasets, metrics
from .band_statistics import BandStatistics
from .detectors import GMMDetector, GroupedDetector, KNNDetector, MahalanobisDetector
from .embedding import AnoPatchEmbedder
from .evaluation import evaluate_dcase
from .mel_statistics import MelStatistics
from .metrics import make_anomaly_scorer
from .model_selection import FitOnNormal
from .patches import patchify, unpatchify
from .patching import MelPatcher
from .pipelines import make_anopatch_pipeline
from .pseudo_anomalies import make_pseudo_anomalies

__version__: str

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
