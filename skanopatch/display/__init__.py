"""Displays in scikit-learn's convention: where, when and how much a machine sounds odd."""

from skanopatch.display.anomaly_map import AnomalyMapDisplay
from skanopatch.display.embedding import EmbeddingDisplay
from skanopatch.display.roc import AnomalyRocDisplay
from skanopatch.display.scores import ScoreDisplay
from skanopatch.display.timeline import TimelineDisplay

__all__ = [
    "AnomalyMapDisplay",
    "AnomalyRocDisplay",
    "EmbeddingDisplay",
    "ScoreDisplay",
    "TimelineDisplay",
]
