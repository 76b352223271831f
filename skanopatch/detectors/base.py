"""What the detectors of embeddings share: validation, domains, and the outlier contract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Sequence
from itertools import compress
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, _fit_context, clone
from sklearn.utils import check_array
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from skanopatch.audio.labels import label_list
from skanopatch.detectors.thresholds import (
    MAX_FOLDS,
    ThresholdMixin,
    cross_fit,
    session_weights,
    split_folds,
    warn_of_near_sessions,
)

FLOATS = [np.float64, np.float32]

THRESHOLD_CONSTRAINTS: dict[str, list[Any]] = {
    "false_alarm_rate": [Interval(Real, 0, 0.5, closed="right")],
    "threshold": [StrOptions({"lognormal", "quantile", "gamma"})],
}

_ROUNDING = 1e-13  # of the mean of many equal numbers, over the number

Members = dict[Hashable, NDArray[np.intp]]
"""The rows of each domain or group."""


class BaseDetector(ThresholdMixin, BaseEstimator, ABC):
    """Base class of the detectors: a subclass writes `_fit` and `_distances`, and no more.

    Scores are minus a distance, which is at least 0. The threshold comes from clips that were left
    out of a fit, see `skanopatch.detectors.thresholds`.

    Parameters
    ----------
    false_alarm_rate : float, default=0.1
        The share of new normal clips that may be called anomalies, in (0, 0.5].

    threshold : {"lognormal", "quantile", "gamma"}, default="lognormal"
        How `offset_` is placed among the training scores.
    """

    _parameter_constraints: dict[str, list[Any]] = THRESHOLD_CONSTRAINTS
    _least_clips = 2  # of a domain
    _compares_domains = True  # whether `score_samples` takes the domain of a clip

    n_features_in_: int
    domains_: list[Hashable]

    def __init__(self, *, false_alarm_rate: float = 0.1, threshold: str = "lognormal"):
        self.false_alarm_rate = false_alarm_rate
        self.threshold = threshold

    @abstractmethod
    def _fit(self, X: NDArray, members: Members) -> None:
        """Learn from `X`, whose rows of each domain are `members`, in order of appearance."""

    @abstractmethod
    def _distances(self, X: NDArray) -> NDArray[np.float64]:
        """Return the distance of each row to each domain, of shape (n_clips, n_domains)."""

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: ArrayLike,
        y: Any = None,
        *,
        domains: Iterable | None = None,
        sessions: Iterable | None = None,
    ) -> Self:
        """Learn what normal clips are like, and where to put the threshold.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
            One embedding per normal clip. Float32 and float64 are kept as they are. A row of
            nothing but NaN stands for a clip that could not be read and is left out.

        y : Ignored
            Not used, present for API consistency. Every row of `X` is taken to be normal; wrap
            the pipeline in `FitOnNormal` to leave out the rows that `y` calls anomalous.

        domains : iterable of hashables of length n_clips, default=None
            The acoustic domain of each clip, such as "source" and "target", its unit or its
            operating state. A clip is as normal as its best domain finds it, since the domain of a
            new clip is most often unknown. None puts all clips in one domain.

        sessions : iterable of hashables of length n_clips, default=None
            Which recording, shift or day each clip is from. Clips of one session are alike: to
            place the threshold, whole sessions are left out. None leaves out single clips.

        Returns
        -------
        self : object
            The fitted detector.

        Raises
        ------
        ValueError
            If `X` holds infinities, or NaN beside numbers, if `domains` or `sessions` have another
            length than `X`, or if a domain has too few clips for the detector.

        Warns
        -----
        UserWarning
            If clips of one session are much nearer to each other than to those of others.
        """
        rows, readable = self._validate(X, reset=True)
        n_clips = len(rows)
        domains = _of_readable(domains, readable, "domains")
        sessions = _of_readable(sessions, readable, "sessions")
        members = rows_by_label(domains, n_clips)
        self._check_domain_sizes(members)
        self.domains_ = list(members)
        if sessions is not None:
            warn_of_near_sessions(rows, sessions)
            if len(set(sessions)) < 2:
                sessions = None
        weights = session_weights(sessions, n_clips)
        folds = list(
            split_folds(n_clips, domains=domains, sessions=sessions, n_folds=self._n_folds(rows))
        )
        scores, own_scores = self._fit_scores(rows, members, folds, weights)
        self.training_scores_ = np.full(len(readable), np.nan)
        self.training_scores_[readable] = scores
        self.own_domain_scores_ = np.full(len(readable), np.nan)
        self.own_domain_scores_[readable] = own_scores
        self.session_weights_ = np.zeros(len(readable))
        self.session_weights_[readable] = weights
        self._place_offset()
        return self

    def _n_folds(self, X: NDArray) -> int:
        return MAX_FOLDS

    def _fit_scores(
        self, X: NDArray, members: Members, folds: list, weights: NDArray
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Fit; return the score of each clip when it is left out, by all domains and its own."""
        self._fit(X, members)
        n_domains = len(members)
        home = np.empty(len(X), dtype=np.intp)
        for domain, rows in enumerate(members.values()):
            home[rows] = domain

        def evaluate(kept: NDArray[np.intp], left_out: NDArray[np.intp]) -> tuple[NDArray]:
            present = np.unique(home[kept])
            part = clone(self)
            part._fit(X[kept], {d: np.flatnonzero(home[kept] == d) for d in present})
            found = part._distances(X[left_out])
            distances = np.full((len(left_out), n_domains, *found.shape[2:]), np.inf)
            distances[:, present] = found
            # How far a new clip of a domain is cannot be learnt where all its clips are left out.
            distances[~np.isin(home[left_out], present)] = np.nan
            return (distances,)

        (distances,) = cross_fit(folds, len(X), evaluate)
        if np.isnan(distances).all():
            raise ValueError(
                "sessions must leave clips of each domain to learn from. Each domain of "
                f"{self.domains_!r} has one session only."
            )
        distances = self._join_left_out(distances, home, weights)
        return -distances.min(axis=1), -distances[np.arange(len(X)), home]

    def _join_left_out(
        self, distances: NDArray, home: NDArray[np.intp], weights: NDArray
    ) -> NDArray[np.float64]:
        """Return the distances (n_clips, n_domains) of clips that are left out."""
        return distances

    def _validate(self, X: ArrayLike, *, reset: bool) -> tuple[NDArray, NDArray[np.bool_]]:
        """Return the rows that are not NaN throughout, and which these are."""
        rows = self._validate_rows(X, reset=reset)
        readable = ~np.isnan(rows).reshape(len(rows), -1).all(axis=1)
        embeddings = rows[readable]
        if reset or readable.any():
            embeddings = check_array(
                embeddings,
                dtype=FLOATS,
                allow_nd=True,
                ensure_min_samples=2 if reset else 1,
                estimator=self,
                input_name="X",
            )
        return embeddings, readable

    def _validate_rows(self, X: ArrayLike, *, reset: bool) -> NDArray:
        """Return `X` as an array with a clip a row, whatever its values."""
        return validate_data(
            self,
            X,
            dtype=FLOATS,
            ensure_all_finite="allow-nan",
            ensure_min_samples=2 if reset else 1,
            reset=reset,
        )

    def _check_domain_sizes(self, members: Members) -> None:
        """Raise if a domain has too few clips, naming it and the settings."""
        for domain, rows in members.items():
            if len(rows) < self._least_clips:
                where = "X" if len(members) == 1 else f"Domain {domain!r}"
                raise ValueError(
                    f"{self!r} needs at least {self._least_clips} clips"
                    f"{' in each domain' if len(members) > 1 else ''}, since each is left out "
                    f"once to set the threshold. {where} has {len(rows)}."
                )

    def score_samples(
        self, X: ArrayLike, *, domains: Iterable | None = None
    ) -> NDArray[np.float64]:
        """Return how normal each clip is: minus its distance.

        All clips are taken for new ones, also those of `fit`; what these score when they are left
        out is in `training_scores_`.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
            One embedding per clip. A row of nothing but NaN stands for a clip that could not be
            read and scores NaN.

        domains : iterable of hashables of length n_clips, default=None
            The domain of each clip, where it is known. None takes the nearest of all.

        Returns
        -------
        scores : ndarray of shape (n_clips,)
            Float64, higher = more normal.

        Raises
        ------
        ValueError
            If a row holds an infinity, or NaN beside numbers, or `fit` did not see a domain.
        """
        check_is_fitted(self)
        rows, readable = self._validate(X, reset=False)
        domains = _of_readable(domains, readable, "domains")
        scores = np.full(len(readable), np.nan)
        if readable.any():
            scores[readable] = -self._nearest_domain(self._distances(rows), domains)
        return scores

    def _nearest_domain(
        self, distances: NDArray, domains: Sequence[Hashable] | None
    ) -> NDArray[np.float64]:
        """Return the distance of each clip to its own domain, or to the nearest one."""
        if domains is None:
            return distances.min(axis=1)
        places = {domain: place for place, domain in enumerate(self.domains_)}
        unknown = next((domain for domain in domains if domain not in places), None)
        if unknown is not None:
            raise ValueError(
                f"Domain {unknown!r} was not seen in fit. The domains are: "
                f"{', '.join(map(repr, places))}."
            )
        return distances[np.arange(len(distances)), [places[domain] for domain in domains]]


def spreads_of(residuals: NDArray, X: NDArray) -> NDArray[np.float64]:
    """Return the deviation of each feature: 0 where its residuals are but the rounding of `X`."""
    spread = np.sqrt(np.mean(np.square(residuals, dtype=np.float64), axis=0))
    return np.where(spread > _ROUNDING * np.abs(X).max(axis=0), spread, 0)


def _of_readable(
    labels: Iterable | None, readable: NDArray[np.bool_], name: str
) -> list[Hashable] | None:
    if labels is None:
        return None
    return list(compress(label_list(labels, len(readable), name), readable))


def rows_by_label(labels: Iterable | None, n_clips: int, name: str = "labels") -> Members:
    """Map each label to its rows, in the order of first appearance; None is one label for all."""
    if labels is None:
        return {None: np.arange(n_clips)}
    rows: dict[Hashable, list[int]] = {}
    for row, label in enumerate(label_list(labels, n_clips, name)):
        rows.setdefault(label, []).append(row)
    return {label: np.array(members) for label, members in rows.items()}
