from . import datasets, display, metrics
from .band_statistics import BandStatistics
from .detectors import (
    CalibratedDetector,
    GMMDetector,
    GroupedDetector,
    JoinedDetector,
    KNNDetector,
    MahalanobisDetector,
    PatchKNNDetector,
    SubbandKNNDetector,
)
from .display import (
    AnomalyMapDisplay,
    AnomalyRocDisplay,
    EmbeddingDisplay,
    ScoreDisplay,
    TimelineDisplay,
)
from .embedding import AnoPatchEmbedder
from .evaluation import evaluate_dcase
from .finetuning.settings import FineTuning
from .mel_statistics import MelStatistics
from .metrics import make_anomaly_scorer
from .model_selection import FitOnNormal
from .patch_statistics import PatchStatistics
from .patches import patchify, unpatchify
from .patching import MelPatcher
from .persistence import load_model, save_model
from .pipelines import anomaly_map, make_anopatch_pipeline, make_map_pipeline
from .pseudo_anomalies import make_pseudo_anomalies
from .sound_detector import AnomalousSoundDetector

__version__: str

__all__ = [
    "AnoPatchEmbedder",
    "AnomalousSoundDetector",
    "AnomalyMapDisplay",
    "AnomalyRocDisplay",
    "BandStatistics",
    "CalibratedDetector",
    "EmbeddingDisplay",
    "FineTuning",
    "FitOnNormal",
    "GMMDetector",
    "GroupedDetector",
    "JoinedDetector",
    "KNNDetector",
    "MahalanobisDetector",
    "MelPatcher",
    "MelStatistics",
    "PatchKNNDetector",
    "PatchStatistics",
    "ScoreDisplay",
    "SubbandKNNDetector",
    "TimelineDisplay",
    "anomaly_map",
    "datasets",
    "display",
    "evaluate_dcase",
    "load_model",
    "make_anomaly_scorer",
    "make_anopatch_pipeline",
    "make_map_pipeline",
    "make_pseudo_anomalies",
    "metrics",
    "patchify",
    "save_model",
    "unpatchify",
]
