from .anomaly_map import AnomalyMapDisplay
from .embedding import EmbeddingDisplay
from .explanation import ExplanationDisplay
from .roc import AnomalyRocDisplay
from .scores import ScoreDisplay
from .timeline import TimelineDisplay
from .trend import TrendDisplay

__all__ = [
    "AnomalyMapDisplay",
    "AnomalyRocDisplay",
    "EmbeddingDisplay",
    "ExplanationDisplay",
    "ScoreDisplay",
    "TimelineDisplay",
    "TrendDisplay",
]
