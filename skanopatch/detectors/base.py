"""What the detectors of embeddings share: validation, domains, and scores of left-out clips."""

from __future__ import annotations

import os
import warnings
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

from skanopatch.audio.labels import label_list, warn_of_anomalies
from skanopatch.audio.samples import refuse_masked
from skanopatch.detectors.folds import MAX_FOLDS, cross_fit, plan_folds
from skanopatch.detectors.thresholds import ThresholdMixin

FLOATS = [np.float64, np.float32]

THRESHOLD_CONSTRAINTS: dict[str, list[Any]] = {
    "false_alarm_rate": [Interval(Real, 0, 0.5, closed="right")],
    "threshold": [StrOptions({"lognormal", "quantile", "gamma"})],
}

_ROUNDING = 1e-13  # relative error of the mean of many equal numbers
_UNITS = 32  # in the last place; clips that are equal may differ by as many from batch to batch

# More are taken for samples: a second at 16 kHz has 16,000. Embeddings of the bands of a large ViT
# have up to 12,288 features.
_MOST_FEATURES = 15_000

PUT_PATCHER_FIRST = (
    "A detector takes embeddings, not recordings: put MelPatcher() first, as in "
    "make_pipeline(MelPatcher(), BandStatistics(), MahalanobisDetector())."
)

Members = dict[Hashable, NDArray[np.intp]]
"""The rows of each domain or group."""

Scores = tuple[NDArray[np.float64], NDArray[np.float64]]
"""The score of each clip by the nearest domain, and by its own."""


class BaseDetector(ThresholdMixin, BaseEstimator, ABC):
    """Base class of the detectors: a subclass writes `_fit` and `_terms`.

    Scores are minus a distance, which is at least 0. The threshold comes from clips that were left
    out of a fit, see `skanopatch.detectors.thresholds`.
    """

    _parameter_constraints: dict[str, list[Any]] = THRESHOLD_CONSTRAINTS
    _least_clips = 2  # of a domain

    n_features_in_: int
    domains_: list[Hashable]

    def __init__(self, *, false_alarm_rate: float = 0.1, threshold: str = "lognormal"):
        self.false_alarm_rate = false_alarm_rate
        self.threshold = threshold

    @abstractmethod
    def _fit(self, X: NDArray, members: Members) -> None:
        """Learn from `X`, whose rows of each domain are `members`, in order of appearance."""

    @abstractmethod
    def _terms(self, X: NDArray) -> Any:
        """Return the terms of which `_join` makes distances, here (n_clips, n_domains, ...)."""

    def _learn_to_join(self, own_terms: NDArray, weights: NDArray) -> None:
        """Learn how to join terms from those of left-out clips to their own domains."""

    def _join(self, terms: Any) -> NDArray[np.float64]:
        """Return the distance of each clip to each domain, of shape (n_clips, n_domains)."""
        return terms

    def _distances(self, X: NDArray) -> NDArray[np.float64]:
        return self._join(self._terms(X))

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: ArrayLike,
        y: Any = None,
        *,
        domains: Iterable | None = None,
        sessions: Iterable | None = None,
    ) -> Self:
        """Learn what normal clips are like, and place the threshold.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
            One embedding per normal clip. Float32 and float64 are kept as they are. A row of
            nothing but NaN stands for a clip that could not be read and is left out.
        y : Ignored
            Not used, present for API consistency. All clips are taken to be normal; `FitOnNormal`
            leaves out those that `y` calls anomalous.
        domains : iterable of hashables of length n_clips, default=None
            The acoustic domain of each clip, such as "source" and "target", its unit or its
            operating state. A new clip of unknown domain is compared with the nearest one. None
            puts all clips in one domain.
        sessions : iterable of hashables of length n_clips, default=None
            The recording, shift or day of each clip. Clips of one session are alike, so whole
            sessions are left out to place the threshold. None leaves out single clips.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If `X` holds infinities, NaN beside numbers, or recordings; if metadata has another
            length than `X`, or a domain has too few clips.

        Warns
        -----
        UserWarning
            If all clips are equal, there are fewer than 5 sessions, or clips are much nearer to
            those of their session.
        """
        warn_of_anomalies(y)
        rows, readable = self._validate(X, reset=True)
        warn_of_equal_clips(rows)
        listed = _of_readable(domains, readable, "domains") or [None] * len(rows)
        members = rows_by_label(listed, len(rows))
        self._check_domain_sizes(members)
        self.domains_ = list(members)
        used_sessions = _of_readable(sessions, readable, "sessions")
        folds, weights = plan_folds(rows, listed, used_sessions, self._n_folds(rows))
        scores, own_scores = self._fit_scores(rows, listed, folds, weights)
        self.training_scores_ = expand(scores, readable)
        self.own_domain_scores_ = expand(own_scores, readable)
        self.session_weights_ = expand(weights, readable, fill=0)
        self._place_offset()
        return self

    def _n_folds(self, X: NDArray) -> int:
        return MAX_FOLDS

    def _fit_scores(self, X: NDArray, domains: list, folds: list, weights: NDArray) -> Scores:
        """Fit, and return the scores of clips while they are left out."""
        members = rows_by_label(domains, len(X))
        self._fit(X, members)
        terms = self._left_out_terms(X, domains, folds)
        column_of = {domain: i for i, domain in enumerate(members)}
        own = np.arange(len(X)), [column_of[domain] for domain in domains]
        self._learn_to_join(terms[own], weights)
        distances = self._join(terms)
        return -distances.min(axis=1), -distances[own]

    def _left_out_terms(self, X: NDArray, domains: list, folds: list) -> NDArray[np.float64]:
        """Return the terms of clips while they are left out, (n_clips, n_domains, ...)."""
        members = rows_by_label(domains, len(X))
        column_of = {domain: i for i, domain in enumerate(members)}

        def evaluate(kept: NDArray, left_out: NDArray) -> tuple[NDArray]:
            part, own_members = clone(self), members_among(members, kept)
            part._fit(X[kept], own_members)
            own_terms = part._terms(X[left_out])
            terms = np.full((len(left_out), len(members), *own_terms.shape[2:]), np.inf)
            terms[:, [column_of[domain] for domain in own_members]] = own_terms
            return (terms,)

        (terms,) = cross_fit(folds, domains, evaluate)
        return terms

    def _validate(self, X: ArrayLike, *, reset: bool) -> tuple[NDArray, NDArray[np.bool_]]:
        """Return the rows that are not all NaN, and a mask of these rows."""
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
        rows = validate_rows(self, X, reset=reset)
        n_features = rows[0].size
        if rows.ndim == 2 and n_features > _MOST_FEATURES:
            raise ValueError(
                f"X has {n_features} features a clip. More than {_MOST_FEATURES} are taken for the "
                f"samples of a recording. {PUT_PATCHER_FIRST} Reduce larger embeddings by PCA()."
            )
        return rows

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
        """Return minus the distance of each clip.

        Clips of `fit` are scored as new ones; their scores as left-out clips are in
        `training_scores_`.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
            One embedding per clip. A row of nothing but NaN scores NaN.
        domains : iterable of hashables of length n_clips, default=None
            The domain of each clip, where it is known. None takes the nearest of all.

        Returns
        -------
        scores : ndarray of shape (n_clips,)
            Float64, higher = more normal.

        Raises
        ------
        ValueError
            If `X` holds infinities or NaN beside numbers, or `fit` did not see a domain.
        """
        scores, readable = self._domain_scores(X)
        if domains is None:
            return scores.max(axis=1)
        columns = self._columns(_of_readable(domains, readable, "domains"))
        return expand(scores[readable][np.arange(len(columns)), columns], readable)

    def _domain_scores(self, X: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the score of each clip by each domain, and which clips are readable."""
        check_is_fitted(self)
        rows, readable = self._validate(X, reset=False)
        if not readable.any():
            return np.full((len(readable), len(self.domains_)), np.nan), readable
        return expand(-self._distances(rows), readable), readable

    def _columns(self, domains: Sequence[Hashable]) -> list[int]:
        """Return the index of each of the domains among those of `fit`."""
        column_of = {domain: i for i, domain in enumerate(self.domains_)}
        unknown = next((domain for domain in domains if domain not in column_of), None)
        if unknown is not None:
            raise ValueError(
                f"Domain {unknown!r} was not seen in fit. The domains are: "
                f"{', '.join(map(repr, column_of))}."
            )
        return [column_of[domain] for domain in domains]


def spreads_of(residuals: NDArray, X: NDArray) -> NDArray[np.float64]:
    """Return the standard deviation of each feature; 0 if its residuals are rounding errors."""
    spread = np.sqrt(np.mean(np.square(residuals, dtype=np.float64), axis=0))
    return np.where(spread > _ROUNDING * np.abs(X).max(axis=0), spread, 0)


def expand(values: NDArray, readable: NDArray[np.bool_], fill: float = np.nan) -> NDArray:
    """Return values for all clips, from those of the readable ones; the others get `fill`."""
    of_all = np.full((len(readable), *values.shape[1:]), fill, dtype=np.float64)
    of_all[readable] = values
    return of_all


def rows_by_label(labels: Iterable | None, n_clips: int, name: str = "labels") -> Members:
    """Map each label to its rows, in the order of first appearance; None is one label for all."""
    if labels is None:
        return {None: np.arange(n_clips)}
    rows: dict[Hashable, list[int]] = {}
    for row, label in enumerate(label_list(labels, n_clips, name)):
        rows.setdefault(label, []).append(row)
    return {label: np.array(members) for label, members in rows.items()}


def members_among(members: Members, kept: NDArray[np.intp]) -> Members:
    """Return the rows of each domain within `X[kept]`, without the domains that have none."""
    new_row = np.full(sum(map(len, members.values())), -1)
    new_row[kept] = np.arange(len(kept))
    among = {domain: new_row[rows] for domain, rows in members.items()}
    return {domain: rows[rows >= 0] for domain, rows in among.items() if rows.max() >= 0}


def validate_rows(estimator: BaseEstimator, X: Any, *, reset: bool) -> NDArray:
    """Return `X` as an array of floats with a clip a row, which may have more axes and NaN."""
    checks: dict[str, Any] = {"dtype": FLOATS, "ensure_all_finite": "allow-nan"}
    checks["ensure_min_samples"] = 2 if reset else 1
    refuse_masked(X)
    try:
        rows = np.asarray(X) if isinstance(X, (list, tuple)) else X
        if getattr(rows, "ndim", 2) <= 2:
            return validate_data(estimator, rows, reset=reset, **checks)
        tokens = check_array(rows, allow_nd=True, estimator=estimator, input_name="X", **checks)
    except (TypeError, ValueError) as error:
        first = X.to_numpy() if hasattr(X, "iloc") else X
        while isinstance(first, (list, tuple, np.ndarray)) and np.iterable(first) and len(first):
            first = first[0]
        if isinstance(first, (str, os.PathLike)):
            raise ValueError(f"X must be numbers. Got {first!r}. {PUT_PATCHER_FIRST}") from error
        if "array element with a sequence" in str(error):
            raise ValueError(f"X must be a table of numbers. {PUT_PATCHER_FIRST}") from error
        raise
    if reset:
        estimator.n_features_in_ = tokens.shape[-1]
    return tokens


def warn_of_equal_clips(X: NDArray) -> None:
    """Warn if no feature of the rows of `X` varies by more than rounding."""
    largest = np.abs(X).max(axis=0)
    if (np.ptp(X, axis=0) <= _UNITS * np.finfo(X.dtype).eps * largest).all():
        warnings.warn(
            f"All {len(X)} clips are equal: none of the {X[0].size} features varies, so that any "
            "other clip is an anomaly. Were they silent, or one recording many times?",
            UserWarning,
            stacklevel=4,
        )


def _of_readable(labels: Iterable | None, readable: NDArray[np.bool_], name: str) -> Any:
    if labels is None:
        return None
    return list(compress(label_list(labels, len(readable), name), readable))
