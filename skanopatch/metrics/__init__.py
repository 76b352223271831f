"""How well scores tell anomalous from normal clips: AUC, partial AUC, the scores of DCASE."""

from skanopatch.metrics.dcase import (
    DCASEComparison,
    DCASEScores,
    compare_dcase_scores,
    dcase_scores,
)
from skanopatch.metrics.roc import auc_score, make_anomaly_scorer, pauc_score

__all__ = [
    "DCASEComparison",
    "DCASEScores",
    "auc_score",
    "compare_dcase_scores",
    "dcase_scores",
    "make_anomaly_scorer",
    "pauc_score",
]
