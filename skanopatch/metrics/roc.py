"""How well scores tell anomalous from normal clips: AUC and partial AUC."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score


def auc_score(y: Any, anomaly_score: Any, *, pos_label: Hashable = -1) -> float:
    """Compute the area under the ROC curve of anomaly scores.

    The chance that an anomalous clip scores higher than a normal one, ties counting half.

    Parameters
    ----------
    y : array-like of shape (n_clips,)
        Labels of two kinds.
    anomaly_score : array-like of shape (n_clips,)
        Higher is more anomalous.
    pos_label : hashable, default=-1
        The label of anomalous clips.

    Returns
    -------
    auc : float
        From 0 to 1; chance is 0.5.

    Raises
    ------
    ValueError
        If `y` does not hold `pos_label` and one other label, a score is NaN, or there is not one
        score a clip.

    Examples
    --------
    >>> from skanopatch.metrics import auc_score
    >>> auc_score([1, 1, -1, -1], [0.1, 0.4, 0.3, 0.8])
    0.75
    """
    is_anomaly, anomaly_score = validate_scores(y, anomaly_score, pos_label)
    return float(roc_auc_score(is_anomaly, anomaly_score))


def pauc_score(
    y: Any, anomaly_score: Any, *, max_fpr: float = 0.1, pos_label: Hashable = -1
) -> float:
    """Compute the area under the ROC curve up to a false-alarm rate, standardised.

    As in the DCASE challenge: McClish's standardisation makes 0.5 chance and 1 perfect.

    Parameters
    ----------
    y : array-like of shape (n_clips,)
        Labels of two kinds.
    anomaly_score : array-like of shape (n_clips,)
        Higher is more anomalous.
    max_fpr : float, default=0.1
        The largest false-alarm rate that counts.
    pos_label : hashable, default=-1
        The label of anomalous clips.

    Returns
    -------
    pauc : float

    Raises
    ------
    ValueError
        If `y` does not hold `pos_label` and one other label, a score is NaN, or there is not one
        score a clip.

    References
    ----------
    .. [1] D. K. McClish, "Analyzing a portion of the ROC curve", Medical Decision Making 9 (1989).

    Examples
    --------
    >>> from skanopatch.metrics import pauc_score
    >>> pauc_score([1, 1, -1, -1], [0.1, 0.4, 0.5, 0.8])
    1.0
    """
    is_anomaly, anomaly_score = validate_scores(y, anomaly_score, pos_label)
    return float(roc_auc_score(is_anomaly, anomaly_score, max_fpr=max_fpr))


def validate_scores(
    y: Any, anomaly_score: Any, pos_label: Hashable
) -> tuple[np.ndarray, np.ndarray]:
    """Return which clips are anomalous, and their scores in float64, or say what is wrong."""
    y = np.asarray(y)
    anomaly_score = np.asarray(anomaly_score, dtype=np.float64)
    if anomaly_score.shape != y.shape or y.ndim != 1:
        raise ValueError(
            "y and anomaly_score must have one entry per clip. Got the shapes "
            f"{y.shape} and {anomaly_score.shape}."
        )
    labels = list(dict.fromkeys(y.tolist()))
    if len(labels) != 2 or pos_label not in labels:
        raise ValueError(
            "y must hold two labels, that of anomalous clips (pos_label) and that of normal ones. "
            f"Got the labels {labels} with pos_label={pos_label!r}."
            + (" StratifiedKFold(shuffle=True) gives each fold both." if len(labels) == 1 else "")
        )
    if np.isnan(anomaly_score).any():
        raise ValueError(
            f"The scores of {int(np.isnan(anomaly_score).sum())} of {len(anomaly_score)} clips are "
            "NaN. Leave clips that could not be read out of the evaluation."
        )
    return y == pos_label, anomaly_score
