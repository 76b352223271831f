"""Thresholds on scores, from normal clips that were left out of a fit."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.base import OutlierMixin, clone
from sklearn.utils.validation import _num_samples, check_is_fitted

from skanopatch.audio.labels import label_list

# The quantile of the training scores rests on the clips beyond it, as many as false alarms are
# expected. With this many it weighs as much as the log-normal distribution.
_FEW_FALSE_ALARMS = 10
_ROUNDING = 1e-12  # relative difference of numbers that differ by rounding only
_LEAST_DISTANCE = 1e-3  # of the median: copies of a training clip are at 0, which has no logarithm
_LARGEST_EXPONENT = 700.0


class DistanceScale:
    """Location and spread of the logarithms of distances; of the distances if one is negative.

    The distances (n_clips,) are of normal clips that were left out of the fit, and NaN for clips
    that do not count. The weights of the clips sum to the number of sessions, which is `n`.
    """

    def __init__(self, distances: NDArray, weights: NDArray):
        counted = ~np.isnan(distances)
        distances, weights = distances[counted], weights[counted]
        self.is_log = bool(distances.min() >= 0)
        positive = distances[distances > 0]
        typical = np.median(positive) if len(positive) else np.finfo(np.float64).eps
        self.floor = float(_LEAST_DISTANCE * typical)
        values = self.transform(distances)
        self.center, deviation, self.n = _moments(values, weights)
        # Logarithms of numbers near 1 are near 0, but differ by what the numbers differ relatively.
        largest = max(float(np.abs(values).max()), 1.0 if self.is_log else 0.0)
        is_rounding = deviation <= _ROUNDING * largest
        self.deviation = 0.0 if is_rounding else deviation

    def transform(self, distances: NDArray) -> NDArray[np.float64]:
        """Return the logarithms of distances; the distances if one was negative at first."""
        return np.log(np.maximum(distances, self.floor)) if self.is_log else distances

    def standardize(self, distances: NDArray) -> NDArray[np.float64]:
        """Return how many deviations distances are above the center."""
        return (self.transform(distances) - self.center) / (self.deviation or 1.0)


class JointDistance:
    """The weighted geometric mean of several distances, or the least of them.

    The logarithms of the distances are centred on those of normal clips that were left out, and
    averaged with `weights`, which are inverse to their deviations and sum to 1. A distance that is
    the same for all clips has the weight 0. A typical normal clip has the joint distance 1.

    With ``joining="min"`` the least of the standardized logarithms, times the harmonic mean of
    their deviations, takes the place of the average.

    The distances (n_clips, n_distances) are of normal clips; rows with NaN do not count.
    """

    def __init__(self, distances: NDArray, weights: NDArray, joining: str = "mean"):
        self.joining = joining
        counted = ~np.isnan(distances).any(axis=1)
        self.scales = [DistanceScale(column, weights[counted]) for column in distances[counted].T]
        inverse = [1 / scale.deviation if scale.deviation else 0.0 for scale in self.scales]
        total = sum(inverse) or 1.0
        self.weights = np.array(inverse) / total
        # Distances without logarithms may differ by thousands, of which exp would be infinite.
        is_log = all(scale.is_log for scale in self.scales)
        self.unit = 1 / total if is_log else min(1 / total, 1.0)
        if joining == "min":
            self.unit *= np.count_nonzero(self.weights) or 1

    @property
    def powers(self) -> list[float]:
        """The power of each distance in the joint distance; of its exponential without logarithms.

        With ``joining="min"``, that of the distance that is the least.
        """
        weights = self.weights if self.weights.any() else np.ones(len(self.weights))
        return [
            self.unit / (scale.deviation or 1.0) if weight else 0.0
            for scale, weight in zip(self.scales, weights, strict=True)
        ]

    def __call__(self, distances: NDArray) -> NDArray[np.float64]:
        """Return the joint distances (...,) of distances (..., n_distances)."""
        is_mean = self.joining == "mean"
        total = np.full(distances.shape[:-1], 0.0 if is_mean else np.inf)
        for i, (scale, weight) in enumerate(zip(self.scales, self.weights, strict=True)):
            if weight or not self.weights.any():
                standardized = scale.standardize(distances[..., i])
                total = total + standardized if is_mean else np.minimum(total, standardized)
        return exp(self.unit * total)


def exp(values: NDArray) -> NDArray[np.float64]:
    """Return exponentials that are finite, also of large values."""
    return np.exp(np.minimum(values, _LARGEST_EXPONENT))


def _moments(values: NDArray, weights: NDArray) -> tuple[float, float, float]:
    """Return the mean, the deviation and the number of independent values."""
    n = float(weights.sum())
    mean = float(weights @ values / n)
    variance = float(weights @ (values - mean) ** 2) / max(n - 1, 1)
    return mean, float(np.sqrt(variance)), n


def place_threshold(
    distances: NDArray, rate: float, rule: str = "lognormal", weights: NDArray | None = None
) -> float:
    """Return the distance that new normal clips exceed with probability `rate`.

    Parameters
    ----------
    distances : ndarray of shape (n_clips,)
        Of normal clips that were left out of the fit; NaN for clips that do not count. Higher is
        more anomalous.
    rate : float
    rule : {"lognormal", "quantile", "gamma"}, default="lognormal"
        "quantile" is that of the distances. "gamma" is that of a gamma distribution of free
        location (Pearson's type III) with their mean, deviation and skewness. "lognormal" is a
        weighted mean of Student's quantile of their logarithms and of the quantile of these, which
        weighs more the more false alarms are expected among the clips. If a distance is negative,
        "lognormal" takes no logarithms, and is the quantile alone from ``1 / rate - 1`` clips on.
    weights : ndarray of shape (n_clips,), default=None
        The weight of each clip. They sum to the number of sessions.
    """
    counted = ~np.isnan(distances)
    weights = np.ones(len(distances)) if weights is None else weights
    distances, weights = distances[counted], weights[counted]
    if np.ptp(distances) <= _ROUNDING * np.abs(distances).max():
        return float(distances.max())  # a new clip at this distance is normal
    if rule == "gamma":
        mean, deviation, _ = _moments(distances, weights)
        skewness = float(weights @ (distances - mean) ** 3 / weights.sum())
        skewness /= float(weights @ (distances - mean) ** 2 / weights.sum()) ** 1.5
        return float(stats.pearson3.ppf(1 - rate, skewness, loc=mean, scale=deviation))
    if rule == "quantile":
        return _quantile(distances, weights, 1 - rate)
    scale = DistanceScale(distances, weights)
    if scale.n < 2:
        return float(distances.max())
    if not scale.is_log and rate * (scale.n + 1) >= 1:  # their distribution is unknown
        return _quantile(distances, weights, 1 - rate)
    # A prediction interval has the factor sqrt(1 + 1 / n) here. It is left out, since left-out
    # clips are compared with fewer clips than new ones are, and so have larger distances.
    normal = scale.center + scale.deviation * stats.t.ppf(1 - rate, scale.n - 1)
    share = scale.n * rate / (scale.n * rate + _FEW_FALSE_ALARMS)
    quantile = _quantile(scale.transform(distances), weights, 1 - rate)
    threshold = (1 - share) * normal + share * quantile
    return float(np.exp(threshold)) if scale.is_log else float(threshold)


def _quantile(values: NDArray, weights: NDArray, level: float) -> float:
    """Return the quantile with Weibull's plotting positions.

    A new value is equally likely to fall in each of the n + 1 gaps between n values.
    """
    order = np.argsort(values)
    positions = np.cumsum(weights[order]) / (weights.sum() + 1)
    return float(np.interp(level, positions, values[order]))


def conformal_p_values(
    scores: NDArray, training_scores: NDArray, weights: NDArray
) -> NDArray[np.float64]:
    """Return the share of normal clips that score no higher, the new clip counted as normal.

    Training clips whose score is NaN do not count.
    """
    counted = ~np.isnan(training_scores)
    order = np.argsort(training_scores[counted])
    below = np.concatenate([[0], np.cumsum(weights[counted][order])])
    ranks = np.searchsorted(training_scores[counted][order], scores, side="right")
    return np.where(np.isnan(scores), np.nan, (1 + below[ranks]) / (1 + below[-1]))


class ThresholdMixin(OutlierMixin):
    """Decisions of a detector that has `score_samples`, `training_scores_` and `offset_`.

    The other methods take what `score_samples` takes.
    """

    false_alarm_rate: float
    threshold: str
    offset_: float
    training_scores_: NDArray[np.float64]
    session_weights_: NDArray[np.float64]

    fit: Callable[..., Self]
    score_samples: Callable[..., NDArray[np.float64]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" not in vars(cls):
            return
        init = cls.__init__

        @wraps(init)
        def explained_init(self: Any, *args: Any, **parameters: Any) -> None:
            if "contamination" in parameters:
                raise TypeError(
                    f"{cls.__name__} takes no contamination. Detectors have false_alarm_rate, the "
                    "share of new normal clips that may be called anomalies."
                )
            init(self, *args, **parameters)

        cls.__init__ = explained_init  # type: ignore[method-assign]

    def _threshold_of(self, distances: NDArray, weights: NDArray) -> float:
        return place_threshold(distances, self.false_alarm_rate, self.threshold, weights)

    def _place_offset(self) -> None:
        self.offset_ = -self._threshold_of(-self.training_scores_, self.session_weights_)

    def set_false_alarm_rate(self, rate: float) -> Self:
        """Move the threshold to another false-alarm rate, without fitting again.

        Parameters
        ----------
        rate : float
            The share of new normal clips that may be called anomalies, in (0, 0.5].

        Returns
        -------
        self : object
        """
        check_is_fitted(self)
        self._set_rate(rate)
        return self

    def _set_rate(self, rate: float) -> None:
        clone(self).set_params(false_alarm_rate=rate)._validate_params()
        self.false_alarm_rate = rate
        self._place_offset()

    def fit_predict(self, X: Any, y: Any = None, **metadata: Any) -> NDArray[np.int_]:
        """Fit, and predict the same clips as if they were new.

        Parameters
        ----------
        X, y, **metadata
            As for `fit`; `groups` also go to `predict`.

        Returns
        -------
        labels : ndarray of shape (n_clips,)
            +1 for normal clips and -1 for anomalies.
        """
        if metadata.get("groups") is not None:
            metadata["groups"] = label_list(metadata["groups"], _num_samples(X), "groups")
        self.fit(X, **metadata)
        return self.predict(X, **{k: v for k, v in metadata.items() if k == "groups"})

    def decision_function(self, X: Any, **metadata: Any) -> NDArray[np.float64]:
        """Return `score_samples(X) - offset_`: negative for anomalies.

        Takes what `score_samples` takes.

        Returns
        -------
        decision : ndarray of shape (n_clips,)
            Float64, NaN for a row of NaN.
        """
        return self.score_samples(X, **metadata) - self.offset_

    def predict(self, X: Any, **metadata: Any) -> NDArray[np.int_]:
        """Return +1 where `decision_function` is at least 0, and -1 below and for a row of NaN.

        Takes what `score_samples` takes.

        Returns
        -------
        labels : ndarray of shape (n_clips,)
        """
        return np.where(self.decision_function(X, **metadata) >= 0, 1, -1)

    def anomaly_score(self, X: Any, **metadata: Any) -> NDArray[np.float64]:
        """Return `-score_samples(X)`: higher = more anomalous, as challenge files want it.

        Takes what `score_samples` takes.

        Returns
        -------
        scores : ndarray of shape (n_clips,)
            Float64, NaN for a row of NaN.
        """
        return -self.score_samples(X, **metadata)

    def p_values(self, X: Any, **metadata: Any) -> NDArray[np.float64]:
        """Return conformal p-values: the share of normal clips that score no higher than each clip.

        Takes what `score_samples` takes. The least p-value of S sessions is 1 / (S + 1). The user
        guide has the references.

        Returns
        -------
        p_values : ndarray of shape (n_clips,)
            Float64 in (0, 1], near to uniform on new normal clips; NaN for a row of NaN.
        """
        scores = self.score_samples(X, **metadata)
        return conformal_p_values(scores, self.training_scores_, self.session_weights_)
