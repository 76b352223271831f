"""Thresholds: what new normal clips score, learnt from normal clips that were left out of a fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.base import OutlierMixin
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import _num_samples, check_is_fitted

from skanopatch.audio.labels import label_list

MAX_FOLDS = 20  # more of them change false alarms by less than 20 clips can show

# Expected false alarms among the training clips at which their quantile weighs as much as a
# log-normal distribution: the quantile of n scores is a matter of these few clips.
_FEW_FALSE_ALARMS = 10
_ROUNDING = 1e-12  # of distances that are the same number, over it
_LEAST_DISTANCE = 1e-3  # over the median: twins of training clips are at 0, which has no logarithm
_MUCH_NEARER = 0.7  # distance within a session, over that to other sessions
_FEW_SESSIONS = 5
_LARGEST_EXPONENT = 700.0

Fold = tuple[NDArray[np.intp], NDArray[np.intp]]
"""The clips that are kept, and those that are left out."""


def split_folds(
    n_clips: int, *, domains: Iterable | None, sessions: Iterable | None, n_folds: int
) -> Iterator[Fold]:
    """Leave clips out in turn: whole sessions where these are given, and some of each domain.

    Parameters
    ----------
    n_clips : int
    domains, sessions : iterable of hashables of length n_clips, or None
    n_folds : int
        There are fewer folds if there are fewer clips or sessions.
    """
    units = list(range(n_clips)) if sessions is None else list(sessions)
    domains = [None] * n_clips if domains is None else list(domains)
    # Units in the order of their domains: neighbours are left out in different folds.
    first_domain: dict[Hashable, Hashable] = {}
    for unit, domain in zip(units, domains, strict=True):
        first_domain.setdefault(unit, domain)
    place = {domain: i for i, domain in enumerate(dict.fromkeys(first_domain.values()))}
    ranked = sorted(first_domain, key=lambda unit: place[first_domain[unit]])
    fold_of_unit = {unit: rank % n_folds for rank, unit in enumerate(ranked)}
    fold_of = np.array([fold_of_unit[unit] for unit in units])
    for fold in np.unique(fold_of):
        yield np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)


def cross_fit(
    folds: Iterable[Fold], n_clips: int, evaluate: Callable[..., Sequence[NDArray]]
) -> list[NDArray[np.float64]]:
    """Return what `evaluate(kept, left_out)` gives for the clips that were left out of a fit.

    `evaluate` returns arrays with an entry a clip that was left out. Those of all folds are put
    together; clips of no fold are NaN.
    """
    collected: list[NDArray[np.float64]] = []
    for kept, left_out in folds:
        found = evaluate(kept, left_out)
        if not collected:
            collected = [np.full((n_clips, *array.shape[1:]), np.nan) for array in found]
        for whole, part in zip(collected, found, strict=True):
            whole[left_out] = part
    return collected


def session_weights(sessions: Sequence[Hashable] | None, n_clips: int) -> NDArray[np.float64]:
    """Return the weight of each clip: the clips of one session count as one clip together."""
    if sessions is None:
        return np.ones(n_clips)
    index = _index_of(sessions)
    return 1 / np.bincount(index)[index]


def _index_of(labels: Sequence[Hashable]) -> NDArray[np.intp]:
    places: dict[Hashable, int] = {}
    return np.array([places.setdefault(label, len(places)) for label in labels], dtype=np.intp)


def log_distances(distances: NDArray, floor: float | None = None) -> NDArray[np.float64]:
    """Return logarithms of distances, with those near 0 taken for a thousandth of the median."""
    if floor is None:
        floor = least_distance(distances)
    return np.log(np.maximum(distances, floor))


def least_distance(distances: NDArray) -> float:
    """Return the least distance that counts as more than 0: a thousandth of the median."""
    positive = distances[distances > 0]
    return float(_LEAST_DISTANCE * np.median(positive)) if len(positive) else 1.0


def moments(values: NDArray, weights: NDArray) -> tuple[float, float, float]:
    """Return the mean, the deviation and the number of independent values.

    Parameters
    ----------
    values : ndarray of shape (n_clips,)
    weights : ndarray of shape (n_clips,)
        Of each clip. They sum to the number of sessions.
    """
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
        more anomalous. Where one is negative, no logarithm is taken, and their quantile serves
        where there are clips enough for one.
    rate : float
    rule : {"lognormal", "quantile", "gamma"}, default="lognormal"
        The quantile of the distances needs many clips for a small rate. A gamma distribution (with
        free location: Pearson's type III) takes their mean, deviation and skewness. "lognormal"
        takes mean and deviation of the logarithms and Student's quantile, since both are
        estimates; the more false alarms are expected among the clips, the more it follows their
        quantile.
    weights : ndarray of shape (n_clips,), default=None
        Of each clip, see `session_weights`.
    """
    counted = ~np.isnan(distances)
    weights = np.ones(len(distances)) if weights is None else weights
    distances, weights = distances[counted], weights[counted]
    if np.ptp(distances) <= _ROUNDING * np.abs(distances).max():
        return float(distances.max())  # no clip is flagged that is as near as all others
    if rule == "gamma":
        mean, deviation, _ = moments(distances, weights)
        skewness = float(weights @ (distances - mean) ** 3 / weights.sum())
        skewness /= float(weights @ (distances - mean) ** 2 / weights.sum()) ** 1.5
        return float(stats.pearson3.ppf(1 - rate, skewness, loc=mean, scale=deviation))
    if rule == "quantile":
        return _quantile(distances, weights, 1 - rate)
    is_log = distances.min() >= 0
    values = log_distances(distances) if is_log else distances
    mean, deviation, n = moments(values, weights)
    if n < 2:
        return float(distances.max())
    if not is_log and rate * (n + 1) >= 1:  # scores of an unknown kind
        return _quantile(distances, weights, 1 - rate)
    # A clip that is left out is compared with fewer clips than a new one, which lies nearer. That
    # makes up for the factor sqrt(1 + 1 / n) of a prediction.
    normal = mean + deviation * stats.t.ppf(1 - rate, n - 1)
    share = n * rate / (n * rate + _FEW_FALSE_ALARMS)
    placed = (1 - share) * normal + share * _quantile(values, weights, 1 - rate)
    return float(np.exp(placed)) if is_log else float(placed)


def _quantile(values: NDArray, weights: NDArray, level: float) -> float:
    """Return the quantile with Weibull's plotting positions.

    A new value is equally likely to fall in each of the n + 1 gaps between n values.
    """
    order = np.argsort(values)
    positions = np.cumsum(weights[order]) / (weights.sum() + 1)
    return float(np.interp(level, positions, values[order]))


class DistanceScale:
    """What the distances of normal clips are like, to compare those of different detectors.

    Parameters
    ----------
    distances : ndarray of shape (n_clips,)
        Of normal clips that were left out of the fit; NaN for clips that do not count. They are
        taken by their logarithms, unless one is negative.
    weights : ndarray of shape (n_clips,)
        Of each clip, see `session_weights`.

    Attributes
    ----------
    center, deviation : float
        Of the logarithms; the deviation is 0 where all are the same.
    """

    def __init__(self, distances: NDArray, weights: NDArray):
        counted = ~np.isnan(distances)
        distances, weights = distances[counted], weights[counted]
        self.is_log = bool(distances.min() >= 0)
        self.floor = least_distance(distances)
        values = log_distances(distances, self.floor) if self.is_log else distances
        self.center, deviation, _ = moments(values, weights)
        is_rounding = deviation <= _ROUNDING * np.abs(values).max()
        self.deviation = 0.0 if is_rounding else deviation

    def standardize(self, distances: NDArray) -> NDArray[np.float64]:
        """Return how many deviations distances are above the center."""
        values = log_distances(distances, self.floor) if self.is_log else distances
        return (values - self.center) / (self.deviation or 1.0)


class JointDistance:
    """One distance from several: their geometric mean, each in units of its spread.

    The logarithms of the distances are centred on those of normal clips that were left out, and
    their mean is weighted by the inverse of their deviations. 1 is the distance of a typical
    normal clip.

    Parameters
    ----------
    distances : ndarray of shape (n_clips, n_distances)
        Of normal clips that were left out of the fit. Rows with NaN do not count.
    weights : ndarray of shape (n_clips,)
        Of each clip, see `session_weights`.

    Attributes
    ----------
    weights : ndarray of shape (n_distances,)
        They sum to 1. A distance that is the same for all clips has no weight.
    """

    def __init__(self, distances: NDArray, weights: NDArray):
        counted = ~np.isnan(distances).any(axis=1)
        self.scales = [DistanceScale(column, weights[counted]) for column in distances[counted].T]
        inverse = [1 / scale.deviation if scale.deviation else 0.0 for scale in self.scales]
        total = sum(inverse) or 1.0
        self.weights = np.array(inverse) / total
        # Differences of what has no logarithm may be thousands, which no exponential holds.
        is_log = all(scale.is_log for scale in self.scales)
        self.unit = 1 / total if is_log else min(1 / total, 1.0)

    def __call__(self, distances: NDArray) -> NDArray[np.float64]:
        """Return the joint distances (...,) of distances (..., n_distances)."""
        total = np.zeros(distances.shape[:-1])
        for place, (scale, weight) in enumerate(zip(self.scales, self.weights, strict=True)):
            if weight or not self.weights.any():
                total += scale.standardize(distances[..., place])
        return exp(self.unit * total)


def exp(values: NDArray) -> NDArray[np.float64]:
    """Return exponentials, the largest float for what is larger still."""
    return np.exp(np.minimum(values, _LARGEST_EXPONENT))


def warn_of_near_sessions(X: NDArray, sessions: Sequence[Hashable]) -> None:
    """Warn where clips of one session are much nearer to each other than to those of others.

    Parameters
    ----------
    X : ndarray of shape (n_clips, ...)
    sessions : sequence of hashables of length n_clips
    """
    index = _index_of(sessions)
    n_sessions = index.max() + 1
    if n_sessions < 2:
        warnings.warn(
            f"sessions are all the same for {len(index)} clips: how new sessions differ cannot be "
            "learnt, and single clips are left out to place the threshold. Its false-alarm rate "
            "holds for this session only.",
            UserWarning,
            stacklevel=4,
        )
        return
    if n_sessions < _FEW_SESSIONS:
        warnings.warn(
            f"{n_sessions} sessions are few to place a threshold by: how new sessions differ is "
            "hardly known, and faults may be missed. The least p-value is "
            f"{1 / (n_sessions + 1):.2g}. Give {_FEW_SESSIONS} sessions or more.",
            UserWarning,
            stacklevel=4,
        )
    rows = StandardScaler().fit_transform(X.reshape(len(X), -1).astype(np.float64))
    inside, outside = np.full(len(X), np.nan), np.full(len(X), np.nan)
    for session in range(n_sessions):
        mine = index == session
        if mine.sum() > 1:
            inside[mine] = NearestNeighbors(n_neighbors=1).fit(rows[mine]).kneighbors()[0][:, 0]
        others = NearestNeighbors(n_neighbors=1).fit(rows[~mine])
        outside[mine] = others.kneighbors(rows[mine])[0][:, 0]
    both = ~np.isnan(inside)
    if not both.any():
        return
    near, far = float(np.median(inside[both])), float(np.median(outside[both]))
    if near < _MUCH_NEARER * far:
        warnings.warn(
            f"Clips of one session are much nearer to each other (median distance {near:.2g}) than "
            f"to clips of other sessions ({far:.2g}). Whole sessions are left out to place the "
            f"threshold, so it rests on {n_sessions} sessions, not on {len(index)} clips. Give "
            "more sessions if new ones raise false alarms.",
            UserWarning,
            stacklevel=4,
        )


def conformal_p_values(
    scores: NDArray, training_scores: NDArray, weights: NDArray
) -> NDArray[np.float64]:
    """Return the share of normal clips, the new one among them, that score no higher.

    Parameters
    ----------
    scores : ndarray of shape (n_new,)
    training_scores : ndarray of shape (n_clips,)
        Of normal clips that were left out of the fit; NaN for clips that do not count.
    weights : ndarray of shape (n_clips,)
        Of each clip, see `session_weights`.
    """
    counted = ~np.isnan(training_scores)
    order = np.argsort(training_scores[counted])
    below = np.concatenate([[0], np.cumsum(weights[counted][order])])
    places = np.searchsorted(training_scores[counted][order], scores, side="right")
    return np.where(np.isnan(scores), np.nan, (1 + below[places]) / (1 + below[-1]))


class ThresholdMixin(OutlierMixin):
    """Decisions of a detector that has `score_samples`, `training_scores_` and `offset_`.

    What `score_samples` takes besides `X`, the other methods take as well.
    """

    false_alarm_rate: float
    threshold: str
    offset_: float
    training_scores_: NDArray[np.float64]
    session_weights_: NDArray[np.float64]

    fit: Callable[..., Self]
    score_samples: Callable[..., NDArray[np.float64]]

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
        former = self.false_alarm_rate
        self.false_alarm_rate = rate
        try:
            self._validate_params()
        except ValueError:
            self.false_alarm_rate = former
            raise
        self._place_offset()
        return self

    def fit_predict(self, X: Any, y: Any = None, **metadata: Any) -> NDArray[np.int_]:
        """Fit, and predict the same clips as if they were new ones.

        Parameters
        ----------
        X : array-like
            As for `fit`.
        y : Ignored
            Not used, present for API consistency.
        **metadata : dict
            As for `fit`. Clips are judged by their `groups`, where these are given.

        Returns
        -------
        labels : ndarray of shape (n_clips,)
            +1 for normal clips and -1 for anomalies.
        """
        if metadata.get("groups") is not None:
            metadata["groups"] = label_list(metadata["groups"], _num_samples(X), "groups")
        self.fit(X, **metadata)
        known = {name: values for name, values in metadata.items() if name == "groups"}
        return self.predict(X, **known)

    def decision_function(self, X: Any, **metadata: Any) -> NDArray[np.float64]:
        """Return `score_samples(X) - offset_`: negative for anomalies.

        Parameters
        ----------
        X : array-like
            As for `score_samples`.
        **metadata : dict
            As for `score_samples`.

        Returns
        -------
        decision : ndarray of shape (n_clips,)
            Float64, NaN for a row of NaN.
        """
        return self.score_samples(X, **metadata) - self.offset_

    def predict(self, X: Any, **metadata: Any) -> NDArray[np.int_]:
        """Return +1 for normal clips and -1 for anomalies.

        Parameters
        ----------
        X : array-like
            As for `score_samples`.
        **metadata : dict
            As for `score_samples`.

        Returns
        -------
        labels : ndarray of shape (n_clips,)
            +1 where `decision_function` is at least 0; -1 below, and for a row of NaN.
        """
        return np.where(self.decision_function(X, **metadata) >= 0, 1, -1)

    def anomaly_score(self, X: Any, **metadata: Any) -> NDArray[np.float64]:
        """Return `-score_samples(X)`: higher = more anomalous, as challenge files want it.

        Parameters
        ----------
        X : array-like
            As for `score_samples`.
        **metadata : dict
            As for `score_samples`.

        Returns
        -------
        scores : ndarray of shape (n_clips,)
            Float64, NaN for a row of NaN.
        """
        return -self.score_samples(X, **metadata)

    def p_values(self, X: Any, **metadata: Any) -> NDArray[np.float64]:
        """Return conformal p-values: the share of normal clips that are as odd.

        The training clips score as they did when they were left out. Those of one session count as
        one clip together, so that the least p-value of S sessions is 1 / (S + 1).

        Parameters
        ----------
        X : array-like
            As for `score_samples`.
        **metadata : dict
            As for `score_samples`.

        Returns
        -------
        p_values : ndarray of shape (n_clips,)
            Float64 in (0, 1], near to uniform on new normal clips; NaN for a row of NaN.

        References
        ----------
        V. Vovk, A. Gammerman and G. Shafer, "Algorithmic Learning in a Random World", 2005; with
        sessions: Y. Lee, R. F. Barber and R. Willett, "Distribution-free inference with
        hierarchical data", 2023, arXiv 2306.06342.
        """
        scores = self.score_samples(X, **metadata)
        return conformal_p_values(scores, self.training_scores_, self.session_weights_)
