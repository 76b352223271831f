"""CalibratedDetector: a threshold for any outlier detector, from clips that are left out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, MetaEstimatorMixin, _fit_context, clone
from sklearn.utils import _safe_indexing, get_tags, indexable
from sklearn.utils._param_validation import HasMethods
from sklearn.utils.validation import _num_samples, check_is_fitted

from skanopatch.audio.labels import warn_of_anomalies
from skanopatch.audio.samples import refuse_masked
from skanopatch.detectors.base import THRESHOLD_CONSTRAINTS, expand, warn_of_equal_clips
from skanopatch.detectors.folds import MAX_FOLDS, cross_fit, plan_folds
from skanopatch.detectors.metadata import accepted, fit_with, last_step, list_metadata, rows_of
from skanopatch.detectors.thresholds import ThresholdMixin


class CalibratedDetector(ThresholdMixin, MetaEstimatorMixin, BaseEstimator):
    """Place the threshold of a detector by scores of clips that were left out of its fit.

    The detectors of this package do this by themselves. `CalibratedDetector` does it for others,
    such as those of scikit-learn, and for a pipeline in which steps before the detector learn from
    the clips, such as a scaler or a PCA. All steps are fitted again without the left-out clips.

    Parameters
    ----------
    detector : outlier detector
        With `score_samples` (higher = more normal), or a pipeline that ends in one.
    false_alarm_rate : float, default=0.1
        The share of new normal clips that may be called anomalies, in (0, 0.5].
    threshold : {"lognormal", "quantile", "gamma"}, default="lognormal"
        How `offset_` follows from the training scores, see :ref:`threshold-rules`.

    Attributes
    ----------
    detector_ : outlier detector
        Fitted on all clips.
    offset_, training_scores_, session_weights_
        What every detector has, see :ref:`detector-attributes`.

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
            Anything that the detector takes. A row of nothing but NaN is left out.
        y : Ignored
            Not used, present for API consistency.
        domains : iterable of hashables of length n_clips, default=None
            Passed to the steps whose `fit` takes them.
        sessions : iterable of hashables of length n_clips, default=None
            The recording, shift or day of each clip; whole sessions are left out.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If there are fewer than 2 clips, or metadata has another length than `X`.
        """
        warn_of_anomalies(y)
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
        numbers = _numbers(X)
        if numbers is not None:
            warn_of_equal_clips(numbers)
        listed = metadata.pop("sessions", None)
        self.detector_ = fit_with(clone(self.detector), X, metadata)
        unknown = [None] * n_clips
        folds, weights = plan_folds(numbers, metadata.get("domains", unknown), listed, MAX_FOLDS)

        def evaluate(kept: NDArray, left_out: NDArray) -> tuple[NDArray]:
            part = clone(self.detector)
            fit_with(part, _safe_indexing(X, kept), rows_of(metadata, kept))
            scores = part.score_samples(_safe_indexing(X, left_out))
            return (np.array(scores, dtype=np.float64),)

        used = metadata["domains"] if accepted(self.detector, metadata) else unknown
        (scores,) = cross_fit(folds, used, evaluate)
        self.training_scores_ = expand(scores, readable)
        self.session_weights_ = expand(weights, readable, fill=0)
        self._place_offset()
        return self

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the scores of the detector that was fitted on all clips.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
            Anything that the detector takes.

        Returns
        -------
        scores : ndarray of shape (n_clips,)
            Float64, higher = more normal; NaN for a row of nothing but NaN.
        """
        check_is_fitted(self)
        readable = _are_readable(X)
        if len(readable) and not readable.any():
            return np.full(len(readable), np.nan)
        rows = X if readable.all() else _safe_indexing(X, np.flatnonzero(readable))
        return expand(self.detector_.score_samples(rows), readable)

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
    return values.reshape(len(values), -1) if values.size else None


def _are_readable(X: Any) -> NDArray[np.bool_]:
    """Return which rows are not NaN throughout."""
    refuse_masked(X)
    numbers = _numbers(X)
    if numbers is None:
        return np.ones(_num_samples(X), dtype=bool)
    return ~np.isnan(numbers).all(axis=1)


def calibrated(detector: BaseEstimator) -> BaseEstimator:
    """Return a clone of a detector, in a `CalibratedDetector` if it has no threshold by itself."""
    has_threshold = isinstance(last_step(detector), ThresholdMixin)
    return clone(detector) if has_threshold else CalibratedDetector(clone(detector))
