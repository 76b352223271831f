"""How well scores tell anomalous from normal clips: AUC, partial AUC, and scorers of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score


def auc_score(y: Any, anomaly_score: Any, *, pos_label: Hashable = -1) -> float:
    """Compute the area under the ROC curve of anomaly scores.

    It is the chance that an anomalous clip has a higher score than a normal one. Equal scores count
    half.

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
        If `y` does not hold `pos_label` and one other label, a score is NaN, or lengths differ.

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
    """Compute the area under the ROC curve up to a false-alarm rate, standardised by McClish [1]_.

    Parameters
    ----------
    y, anomaly_score : array-like of shape (n_clips,)
        Labels of two kinds and scores, as in `auc_score`.
    max_fpr : float, default=0.1
        The largest false-alarm rate that counts.
    pos_label : hashable, default=-1
        The label of anomalous clips.

    Returns
    -------
    pauc : float
        From 0.47 to 1; chance is 0.5.

    Raises
    ------
    ValueError
        As `auc_score` does.

    References
    ----------
    .. [1] D. K. McClish, "Analyzing a portion of the ROC curve", Medical Decision Making 9 (1989).
    """
    is_anomaly, anomaly_score = validate_scores(y, anomaly_score, pos_label)
    return float(roc_auc_score(is_anomaly, anomaly_score, max_fpr=max_fpr))


@dataclass(frozen=True, repr=False, eq=False)
class AnomalyScorer:
    """What `make_anomaly_scorer` returns: a scorer as scikit-learn's model selection takes it."""

    metric: str
    pos_label: Hashable
    kwargs: dict[str, Any]

    def __call__(self, estimator: Any, X: Any, y: Any) -> float:
        """Return the metric of the anomaly scores of `X`."""
        anomaly_score = -np.asarray(estimator.score_samples(X))
        return METRICS[self.metric](y, anomaly_score, pos_label=self.pos_label, **self.kwargs)

    def __repr__(self) -> str:
        kwargs = "".join(f", {name}={value!r}" for name, value in self.kwargs.items())
        return f"make_anomaly_scorer({self.metric!r}, pos_label={self.pos_label!r}{kwargs})"


METRICS: dict[str, Callable[..., float]] = {"auc": auc_score, "pauc": pauc_score}


def make_anomaly_scorer(
    metric: str = "auc", *, pos_label: Hashable = -1, **kwargs: Any
) -> AnomalyScorer:
    """Make a scorer of AUC or partial AUC, for `GridSearchCV` or `cross_val_score`.

    Use it in place of ``scoring="roc_auc"``, which takes the larger label as normal and so returns
    1 - AUC if 0 is normal and 1 is an anomaly. Each test fold needs anomalous clips. `FitOnNormal`
    keeps them out of the training.

    Parameters
    ----------
    metric : {"auc", "pauc"}, default="auc"
        See `auc_score` and `pauc_score`.
    pos_label : hashable, default=-1
        The label of anomalous clips in `y`.
    **kwargs
        Passed to the metric, such as ``max_fpr=0.05``.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y)``: higher is better. It calls `estimator.score_samples`.

    Raises
    ------
    ValueError
        If there is no such metric, or, when it is called, if `y` has no such label.

    Examples
    --------
    >>> from skanopatch import make_anomaly_scorer
    >>> make_anomaly_scorer("pauc", pos_label=1)
    make_anomaly_scorer('pauc', pos_label=1)
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {sorted(METRICS)}. Got {metric!r} instead.")
    return AnomalyScorer(metric, pos_label, kwargs)


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
