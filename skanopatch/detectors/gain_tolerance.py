"""A detector of clip statistics that forgives small changes of the recording's gain."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from copy import copy
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted

from skanopatch.audio.labels import encode_labels
from skanopatch.detectors.base import rows_by_label
from skanopatch.detectors.metadata import (
    call_with_groups,
    fit_with,
    last_step,
    list_metadata,
    select_group,
)
from skanopatch.detectors.thresholds import ThresholdMixin

_DECIBEL = math.log(10) / 10  # as a natural logarithm of power


class GainTolerantDetector(ThresholdMixin, BaseEstimator):
    """Score clips as they are and with a reduced gain; the higher score counts.

    The gain of a clip is the median, over the mel bins, of its mean spectrum less that of the
    normal clips. Where the gains of normal clips deviate by s dB and the tolerance is t > s, the
    gain is multiplied by s / t: a gain of t dB counts as one deviation. Training scores and the
    threshold are those of `detector`.

    Parameters
    ----------
    detector : outlier detector
        Scores the statistics of clips.
    n_mels, n_level : int
        The first `n_mels` statistics are the spectrum, and a gain shifts the first `n_level`.
    gain_tolerance : float, default=1.5
        The least deviation of the gain, in dB. 0 changes nothing.

    Attributes
    ----------
    detector_ : outlier detector
        Fitted.
    locations_ : ndarray of shape (n_classes, n_features)
        The mean of each pair of group and domain.
    location_groups_ : list of length n_classes
        The group of each; None without groups.
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
        nothing = [None] * len(X)
        known = [metadata.get(name, nothing) for name in ("groups", "domains")]
        pairs = [tuple(values[row] for values in known) for row in usable]
        classes, target = encode_labels(pairs, len(usable))
        self.location_groups_ = [group for group, _ in classes]
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

    def _set_rate(self, rate: float) -> None:
        last_step(self.detector_).set_false_alarm_rate(rate)
        self._take_threshold()

    def reduce_gain(self, X: NDArray, groups: Iterable | None = None) -> NDArray | None:
        """Return statistics with a reduced gain; None if `fit` found that none is to be reduced.

        The class of a new clip is unknown. Among those of its group, it is taken to be the one to
        whose spectrum that of the clip is nearest when the gain is set aside.
        """
        kept = self.gain_deviation_ / self.gain_tolerance if self.gain_tolerance else 1.0
        if not kept < 1:  # NaN, where no class has two clips
            return None
        reduced = X.copy()
        for group, own in rows_by_label(groups, len(X), "groups").items():
            locations = self.locations_of(group)
            if len(locations):  # else the detector refuses the group
                gain = self._gains(X[own], locations)[:, np.newaxis]
                reduced[own, : self.n_level] -= ((1 - kept) * gain).astype(X.dtype)
        return reduced

    def locations_of(self, group: Hashable) -> NDArray[np.float64]:
        """Return the locations of a group, of all groups with None."""
        if group is None:
            return self.locations_
        return self.locations_[[owner == group for owner in self.location_groups_]]

    def _gains(self, X: NDArray, locations: NDArray) -> NDArray:
        """Return the gain of each clip over the location whose spectrum has its shape."""
        deviations = X[:, np.newaxis] - locations
        gains = self._spectrum(deviations)
        shapes = np.abs(deviations[..., : self.n_mels] - gains[..., np.newaxis]).mean(axis=2)
        nearest = np.where(np.isnan(shapes), np.inf, shapes).argmin(axis=1)
        return gains[np.arange(len(X)), nearest]

    @property
    def group_rows_(self) -> dict[Hashable, NDArray[np.intp]]:
        """The training clips of each group."""
        return last_step(self.detector_).group_rows_

    def select_group(self, group: Hashable) -> Self:
        """Return a detector of one group alone, see `GroupedDetector.select_group`."""
        selected = copy(self)
        selected.detector_ = select_group(self.detector_, group)
        selected.locations_ = self.locations_of(group)
        selected.location_groups_ = [group] * len(selected.locations_)
        selected._take_threshold()
        return selected

    def best_statistics(self, X: NDArray, groups: Iterable | None = None) -> NDArray:
        """Return for each clip those of its statistics that score higher: given, or reduced."""
        reduced, given_scores, reduced_scores = self._compare("score_samples", X, groups)
        return np.where((reduced_scores > given_scores)[:, np.newaxis], reduced, X)

    def _compare(
        self, method: str, X: NDArray, groups: Iterable | None
    ) -> tuple[NDArray, NDArray[np.float64], NDArray[np.float64]]:
        """Return reduced statistics, and the values of a method for those given and reduced."""
        check_is_fitted(self)
        groups = list_metadata(len(X), groups=groups).get("groups")
        values = call_with_groups(self.detector_, method, X, groups)
        reduced = self.reduce_gain(X, groups)
        if reduced is None:
            return X, values, values
        return reduced, values, call_with_groups(self.detector_, method, reduced, groups)

    def score_samples(self, X: NDArray, *, groups: Iterable | None = None) -> NDArray[np.float64]:
        """Return the scores of statistics (n_clips, n_features), each the higher of the two."""
        return np.maximum(*self._compare("score_samples", X, groups)[1:])

    def p_values(  # type: ignore[override]
        self, X: NDArray, *, groups: Iterable | None = None
    ) -> NDArray[np.float64]:
        """Return conformal p-values, each the larger of the two."""
        return np.maximum(*self._compare("p_values", X, groups)[1:])

    @property
    def n_features_in_(self) -> int:
        """Number of statistics."""
        return self.locations_.shape[1]
