"""Displays in scikit-learn's convention: where, when and how much a machine is anomalous."""

from skanopatch.inspection.anomaly_map import AnomalyMapDisplay
from skanopatch.inspection.embedding import EmbeddingDisplay
from skanopatch.inspection.explanation import ExplanationDisplay
from skanopatch.inspection.roc import AnomalyRocDisplay
from skanopatch.inspection.scores import ScoreDisplay
from skanopatch.inspection.timeline import TimelineDisplay

__all__ = [
    "AnomalyMapDisplay",
    "AnomalyRocDisplay",
    "EmbeddingDisplay",
    "ExplanationDisplay",
    "ScoreDisplay",
    "TimelineDisplay",
]
