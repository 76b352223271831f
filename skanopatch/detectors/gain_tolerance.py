"""A detector of clip statistics that forgives small changes of the recording's gain."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted

from skanopatch.audio.labels import encode_labels
from skanopatch.detectors.metadata import call_with_groups, fit_with, last_step, list_metadata
from skanopatch.detectors.thresholds import ThresholdMixin

_DECIBEL = math.log(10) / 10  # as a natural logarithm of power


class GainTolerantDetector(ThresholdMixin, BaseEstimator):
    """Score clips as they are, and with their gain brought nearer to normal; the better counts.

    The gain of a clip is the median, over the mel bins, of its mean spectrum less that of the
    normal clips. Where the gains of normal clips deviate by s dB and the tolerance is t > s, the
    gain is reduced to s / t of itself. A gain of t dB then lies one deviation from normal, as with
    a prior deviation of t dB. Training scores and the threshold are those of `detector`.

    Parameters
    ----------
    detector : outlier detector
        What scores the statistics of clips.
    n_mels, n_level : int
        The first `n_mels` statistics are the spectrum, the first `n_level` move with the gain.
    gain_tolerance : float, default=1.5
        The least deviation of the gain, in dB. 0 changes nothing.

    Attributes
    ----------
    detector_ : outlier detector
        Fitted.
    locations_ : ndarray of shape (n_classes, n_features)
        The mean of each pair of group and domain.
    gain_deviation_ : float
        Of the gains of normal clips about those of their class, in dB; NaN where no class has two
        clips.
    """

    def __init__(
        self, detector: Any, *, n_mels: int, n_level: int, gain_tolerance: float = 1.5
    ) -> None:
        self.detector = detector
        self.n_mels = n_mels
        self.n_level = n_level
        self.gain_tolerance = gain_tolerance

    def fit(
        self,
        X: NDArray,
        y: Any = None,
        *,
        labels: Iterable | None = None,
        domains: Iterable | None = None,
        groups: Iterable | None = None,
        sessions: Iterable | None = None,
    ) -> Self:
        """Fit the detector to statistics (n_clips, n_features), and learn how gains vary."""
        metadata = list_metadata(
            len(X), labels=labels, domains=domains, groups=groups, sessions=sessions
        )
        self.detector_ = fit_with(clone(self.detector), X, metadata)
        self._take_threshold()
        usable = np.flatnonzero(~np.isnan(X).any(axis=1))
        known = [metadata[name] for name in ("groups", "domains") if name in metadata]
        pairs = [tuple(values[row] for values in known) for row in usable]
        classes, target = encode_labels(pairs, len(usable))
        rows = X[usable].astype(np.float64)
        self.locations_ = np.stack([rows[target == c].mean(axis=0) for c in range(len(classes))])
        gains = self._spectrum(rows - self.locations_[target])
        n_free = len(rows) - len(classes)
        variance = float(gains @ gains) / n_free if n_free else math.nan
        self.gain_deviation_ = math.sqrt(variance) / _DECIBEL
        return self

    def _spectrum(self, deviations: NDArray) -> NDArray[np.float64]:
        return np.median(deviations[..., : self.n_mels], axis=-1)

    def _take_threshold(self) -> None:
        end = last_step(self.detector_)
        self.offset_, self.training_scores_ = end.offset_, end.training_scores_
        self.session_weights_ = end.session_weights_

    def set_false_alarm_rate(self, rate: float) -> Self:
        """Move the threshold to another false-alarm rate, without fitting again."""
        check_is_fitted(self)
        last_step(self.detector_).set_false_alarm_rate(rate)
        self._take_threshold()
        return self

    def reduce_gain(self, X: NDArray) -> NDArray | None:
        """Return statistics with their gain brought nearer to normal, None where none is reduced.

        A new clip's class is not known: it is the one from which its spectrum deviates least
        beside the gain.
        """
        kept = self.gain_deviation_ / self.gain_tolerance if self.gain_tolerance else 1.0
        if not kept < 1:  # NaN, where it cannot be known
            return None
        deviations = X[:, np.newaxis] - self.locations_
        gains = self._spectrum(deviations)
        shapes = np.abs(deviations[..., : self.n_mels] - gains[..., np.newaxis]).mean(axis=2)
        nearest = np.where(np.isnan(shapes), np.inf, shapes).argmin(axis=1)
        gain = gains[np.arange(len(X)), nearest, np.newaxis]
        reduced = X.copy()
        reduced[:, : self.n_level] -= ((1 - kept) * gain).astype(X.dtype)
        return reduced

    def best_statistics(self, X: NDArray, groups: Iterable | None = None) -> NDArray:
        """Return for each clip which of its statistics score better: as they are, or reduced."""
        reduced = self.reduce_gain(X)
        if reduced is None:
            return X
        groups = list_metadata(len(X), groups=groups).get("groups")
        as_is, without = (
            call_with_groups(self.detector_, "score_samples", rows, groups) for rows in (X, reduced)
        )
        return np.where((without > as_is)[:, np.newaxis], reduced, X)

    def _best(self, method: str, X: NDArray, groups: Iterable | None) -> NDArray[np.float64]:
        check_is_fitted(self)
        groups = list_metadata(len(X), groups=groups).get("groups")
        values = call_with_groups(self.detector_, method, X, groups)
        reduced = self.reduce_gain(X)
        if reduced is None:
            return values
        return np.maximum(values, call_with_groups(self.detector_, method, reduced, groups))

    def score_samples(self, X: NDArray, *, groups: Iterable | None = None) -> NDArray[np.float64]:
        """Return the score of statistics (n_clips, n_features), the better of the two."""
        return self._best("score_samples", X, groups)

    def p_values(  # type: ignore[override]
        self, X: NDArray, *, groups: Iterable | None = None
    ) -> NDArray[np.float64]:
        """Return conformal p-values, the larger of the two."""
        return self._best("p_values", X, groups)

    @property
    def n_features_in_(self) -> int:
        """Number of statistics."""
        return self.locations_.shape[1]
