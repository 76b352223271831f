from . import datasets, inspection, metrics
from .audio.clips import Segment
from .audio.reading import split_recording
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
from .embedding.embedder import AnoPatchEmbedder
from .embedding.settings import FineTuning
from .inspection import (
    AnomalyMapDisplay,
    AnomalyRocDisplay,
    EmbeddingDisplay,
    ExplanationDisplay,
    ScoreDisplay,
    TimelineDisplay,
    TrendDisplay,
)
from .metrics import make_anomaly_scorer
from .model_selection.dcase_evaluation import evaluate_dcase
from .model_selection.fit_on_normal import FitOnNormal
from .model_selection.pseudo_anomalies import make_pseudo_anomalies
from .persistence.model_files import load_model, save_model, save_models
from .persistence.onnx_export import export_onnx
from .persistence.onnx_scorer import OnnxScorer
from .recipes.pipelines import anomaly_map, make_anopatch_pipeline, make_map_pipeline
from .recipes.pseudo_attributes import make_pseudo_attributes
from .recipes.sound_detector import AnomalousSoundDetector
from .recipes.training_free import make_training_free_pipeline
from .spectra.band_statistics import BandStatistics
from .spectra.mel_patcher import MelPatcher
from .spectra.mel_statistics import MelStatistics
from .spectra.patch_statistics import PatchStatistics
from .spectra.patches import patchify, unpatchify
from .streaming.scoring import score_stream

__version__: str

__all__ = [
    "AnoPatchEmbedder",
    "AnomalousSoundDetector",
    "AnomalyMapDisplay",
    "AnomalyRocDisplay",
    "BandStatistics",
    "CalibratedDetector",
    "EmbeddingDisplay",
    "ExplanationDisplay",
    "FineTuning",
    "FitOnNormal",
    "GMMDetector",
    "GroupedDetector",
    "JoinedDetector",
    "KNNDetector",
    "MahalanobisDetector",
    "MelPatcher",
    "MelStatistics",
    "OnnxScorer",
    "PatchKNNDetector",
    "PatchStatistics",
    "ScoreDisplay",
    "Segment",
    "SubbandKNNDetector",
    "TimelineDisplay",
    "TrendDisplay",
    "anomaly_map",
    "datasets",
    "evaluate_dcase",
    "export_onnx",
    "inspection",
    "load_model",
    "make_anomaly_scorer",
    "make_anopatch_pipeline",
    "make_map_pipeline",
    "make_pseudo_anomalies",
    "make_pseudo_attributes",
    "make_training_free_pipeline",
    "metrics",
    "patchify",
    "save_model",
    "save_models",
    "score_stream",
    "split_recording",
    "unpatchify",
]
