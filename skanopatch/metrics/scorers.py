"""Scorers for scikit-learn's model selection out of the metrics."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from skanopatch.metrics.roc import auc_score, pauc_score

_METRICS: dict[str, Callable[..., float]] = {"auc": auc_score, "pauc": pauc_score}


class _AnomalyScorer:
    """Callable with the signature that scikit-learn's model selection expects of a scorer."""

    def __init__(self, metric: str, pos_label: Hashable, kwargs: dict[str, Any]):
        self.metric = metric
        self.pos_label = pos_label
        self.kwargs = kwargs

    def __call__(self, estimator: Any, X: Any, y: Any) -> float:
        anomaly_score = -np.asarray(estimator.score_samples(X))
        return _METRICS[self.metric](y, anomaly_score, pos_label=self.pos_label, **self.kwargs)

    def __repr__(self) -> str:
        kwargs = "".join(f", {name}={value!r}" for name, value in self.kwargs.items())
        return f"make_anomaly_scorer({self.metric!r}, pos_label={self.pos_label!r}{kwargs})"


def make_anomaly_scorer(
    metric: str = "auc", *, pos_label: Hashable = -1, **kwargs: Any
) -> _AnomalyScorer:
    """Make a scorer for `GridSearchCV` or `cross_val_score` out of a metric of this module.

    Unlike ``scoring="roc_auc"``, which takes the larger label for the normal one and so gives
    1 - AUC for labels 0 and 1, it is told which label is anomalous. It needs anomalous clips in
    each test fold; wrap the estimator into `FitOnNormal`, so that none is trained on.

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
    if metric not in _METRICS:
        raise ValueError(f"metric must be one of {sorted(_METRICS)}. Got {metric!r} instead.")
    return _AnomalyScorer(metric, pos_label, kwargs)
