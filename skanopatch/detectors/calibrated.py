"""CalibratedDetector: a threshold for any outlier detector, from clips that are left out."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, MetaEstimatorMixin, _fit_context, clone
from sklearn.utils import _safe_indexing, get_tags, indexable
from sklearn.utils._param_validation import HasMethods
from sklearn.utils.validation import _num_samples, check_is_fitted

from skanopatch.detectors.base import THRESHOLD_CONSTRAINTS
from skanopatch.detectors.metadata import (
    accepted,
    fit_with,
    last_step,
    list_metadata,
    rows_of,
)
from skanopatch.detectors.thresholds import (
    MAX_FOLDS,
    ThresholdMixin,
    cross_fit,
    session_weights,
    split_folds,
    warn_of_near_sessions,
)


class CalibratedDetector(ThresholdMixin, MetaEstimatorMixin, BaseEstimator):
    """Place the threshold of a detector by scores of clips that were left out of its fit.

    The detectors of this package do so by themselves. This does it for others, such as
    scikit-learn's, and for a pipeline whose steps before the detector learn from the clips: a
    scaler, a PCA. All its steps are fitted again without the clips that are left out, as
    `CalibratedClassifierCV` does it.

    Parameters
    ----------
    detector : outlier detector
        With `score_samples` (higher = more normal), or a pipeline that ends in one.

    false_alarm_rate : float, default=0.1
        The share of new normal clips that may be called anomalies, in (0, 0.5].

    threshold : {"lognormal", "quantile", "gamma"}, default="lognormal"
        How `offset_` is placed among the training scores, see
        `skanopatch.detectors.thresholds.place_threshold`. Scores above 0 are no distances: their
        logarithms are not taken.

    Attributes
    ----------
    detector_ : outlier detector
        Fitted on all clips.

    offset_ : float
        The score below which a clip is an anomaly.

    training_scores_ : ndarray of shape (n_clips,)
        The score of each training clip when it is left out of the fit.

    session_weights_ : ndarray of shape (n_clips,)
        What each training clip counts: 1, or 1 over the clips of its session.

    n_features_in_ : int
        Number of features seen during `fit`, where the detector counts them.

    See Also
    --------
    sklearn.calibration.CalibratedClassifierCV : The same for probabilities of classifiers.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import IsolationForest
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skanopatch import CalibratedDetector
    >>> normal = np.random.default_rng(0).normal(size=(60, 4))
    >>> tail = make_pipeline(StandardScaler(), IsolationForest(n_estimators=20, random_state=0))
    >>> CalibratedDetector(tail).fit(normal).predict([[0, 0, 0, 0], [9, 9, 9, 9]])
    array([ 1, -1])
    """

    _parameter_constraints = {
        "detector": [HasMethods(["fit", "score_samples"])],
        **THRESHOLD_CONSTRAINTS,
    }

    def __init__(
        self,
        detector: BaseEstimator,
        *,
        false_alarm_rate: float = 0.1,
        threshold: str = "lognormal",
    ):
        self.detector = detector
        self.false_alarm_rate = false_alarm_rate
        self.threshold = threshold

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(
        self,
        X: ArrayLike,
        y: Any = None,
        *,
        domains: Iterable | None = None,
        sessions: Iterable | None = None,
    ) -> Self:
        """Fit the detector, and fit it again without some clips in turn.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
            Whatever the detector takes. A row of nothing but NaN stands for a clip that could not
            be read and is left out.

        y : Ignored
            Not used, present for API consistency.

        domains : iterable of hashables of length n_clips, default=None
            Handed to the steps whose `fit` takes them.

        sessions : iterable of hashables of length n_clips, default=None
            Which recording, shift or day each clip is from: whole sessions are left out.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If there are fewer than 2 clips that can be read, or metadata of another length than
            `X`.
        """
        X = indexable(X)[0]
        metadata = list_metadata(_num_samples(X), domains=domains, sessions=sessions)
        readable = _are_readable(X)
        n_clips = int(readable.sum())
        if n_clips < 2:
            raise ValueError(
                f"Found array with {n_clips} sample(s), and CalibratedDetector needs a minimum of "
                "2, since clips are left out to place the threshold."
            )
        if n_clips < len(readable):
            rows = np.flatnonzero(readable)
            X, metadata = _safe_indexing(X, rows), rows_of(metadata, rows)
        listed: list[Hashable] | None = metadata.pop("sessions", None)
        self.detector_ = fit_with(clone(self.detector), X, metadata)
        if listed is not None:
            if (numbers := _numbers(X)) is not None:
                whole = np.flatnonzero(~np.isnan(numbers).any(axis=1))
                warn_of_near_sessions(numbers[whole], [listed[i] for i in whole])
            if len(set(listed)) < 2:
                listed = None
        self.session_weights_ = np.zeros(len(readable))
        self.session_weights_[readable] = session_weights(listed, n_clips)
        takes_domains = accepted(self.detector, metadata)
        domains = metadata["domains"] if takes_domains else [None] * n_clips
        folds = split_folds(
            n_clips, domains=metadata.get("domains"), sessions=listed, n_folds=MAX_FOLDS
        )

        def evaluate(kept: NDArray[np.intp], left_out: NDArray[np.intp]) -> tuple[NDArray]:
            part = clone(self.detector)
            fit_with(part, _safe_indexing(X, kept), rows_of(metadata, kept))
            scores = np.array(part.score_samples(_safe_indexing(X, left_out)), dtype=np.float64)
            # How far a new clip of a domain is cannot be learnt where all its clips are left out.
            seen = {domains[row] for row in kept}
            scores[[domains[row] not in seen for row in left_out]] = np.nan
            return (scores,)

        (scores,) = cross_fit(folds, n_clips, evaluate)
        if np.isnan(scores).all():
            raise ValueError(
                "sessions must leave clips of each domain to learn from. Each domain of "
                f"{list(dict.fromkeys(domains))!r} has one session only."
            )
        self.training_scores_ = np.full(len(readable), np.nan)
        self.training_scores_[readable] = scores
        self._place_offset()
        return self

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the scores of the detector that was fitted on all clips.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
            Whatever the detector takes.

        Returns
        -------
        scores : ndarray of shape (n_clips,)
            Float64, higher = more normal; NaN for a row of nothing but NaN.
        """
        check_is_fitted(self)
        readable = _are_readable(X)
        if readable.all():
            return np.asarray(self.detector_.score_samples(X), dtype=np.float64)
        scores = np.full(len(readable), np.nan)
        if readable.any():
            read = _safe_indexing(X, np.flatnonzero(readable))
            scores[readable] = self.detector_.score_samples(read)
        return scores

    @property
    def n_features_in_(self) -> int:
        """Number of features seen during `fit`, where the detector counts them."""
        return self.detector_.n_features_in_

    @property
    def feature_names_in_(self) -> NDArray:
        """Names of the features seen during `fit`, where the detector keeps them."""
        return self.detector_.feature_names_in_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self.detector).input_tags
        return tags


def _numbers(X: Any) -> NDArray[np.floating] | None:
    """Return a table of floats as an array; None for other clips, such as paths."""
    values = X.to_numpy() if hasattr(X, "to_numpy") else X
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f" or values.ndim < 2:
        return None
    return values.reshape(len(values), -1) if values.size else None  # the detector refuses it


def _are_readable(X: Any) -> NDArray[np.bool_]:
    """Return which rows are not NaN throughout."""
    numbers = _numbers(X)
    if numbers is None:
        return np.ones(_num_samples(X), dtype=bool)
    return ~np.isnan(numbers).all(axis=1)


def calibrated(detector: BaseEstimator) -> BaseEstimator:
    """Return a clone of a detector that places its threshold by itself, or that is made to."""
    has_threshold = isinstance(last_step(detector), ThresholdMixin)
    return clone(detector) if has_threshold else CalibratedDetector(clone(detector))
