"""GroupedDetector: one detector per machine, with scores that compare across machines."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from copy import copy
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, MetaEstimatorMixin, _fit_context, clone
from sklearn.utils._param_validation import HasMethods, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skanopatch.audio.labels import warn_of_anomalies
from skanopatch.detectors.base import BaseDetector, rows_by_label, validate_rows
from skanopatch.detectors.calibrated import calibrated
from skanopatch.detectors.mahalanobis import MahalanobisDetector
from skanopatch.detectors.maps import MapDetector
from skanopatch.detectors.metadata import (
    RoutedGroupsMixin,
    at_the_end,
    fit_with,
    last_step,
    list_metadata,
    rows_of,
)
from skanopatch.detectors.thresholds import DistanceScale, ThresholdMixin, conformal_p_values, exp


class GroupedDetector(RoutedGroupsMixin, ThresholdMixin, MetaEstimatorMixin, BaseEstimator):
    """Fit one detector per group of clips, such as one per machine.

    The distances of a group are divided by its threshold, so that 1 is the threshold of each
    group. They are also raised to a power, so that all groups have the same spread.

    Parameters
    ----------
    detector : outlier detector, default=None
        Cloned and fitted for each group; also a pipeline that ends in a detector. None is
        `MahalanobisDetector()`. A detector without a threshold is put into a `CalibratedDetector`.
    pooled : bool or "auto", default=False
        Whether one detector is fitted on the clips of all groups, with the groups as its domains.
        Similar groups, such as units of one type, then share a covariance. A clip is compared with
        the domains of its group. "auto" pools if `fit` gets domains and the detector compares clips
        with single domains.

    Attributes
    ----------
    detectors_ : dict
        The fitted detector of each group, in the order of first appearance. Without groups the one
        key is None. With pooled groups it is one detector.
    pooled_ : bool
        Whether groups are pooled.
    offset_, training_scores_, session_weights_
        What every detector has, see :ref:`detector-attributes`. `offset_` is -1.

    Notes
    -----
    `groups` is requested by default where metadata routing is enabled, as in scikit-learn's group
    splitters.

    Without `groups` at scoring time, as in `Pipeline.score_samples`, which passes no metadata, the
    highest score of a clip over all groups counts, and so does its highest p-value. The false-alarm
    rate is then at most the one that was set.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch.detectors import GroupedDetector, KNNDetector
    >>> rng = np.random.default_rng(0)
    >>> X = np.vstack([rng.normal(0, 1, (50, 4)), rng.normal(8, 1, (50, 4))])
    >>> machines = ["fan"] * 50 + ["pump"] * 50
    >>> detector = GroupedDetector(KNNDetector(metric="euclidean")).fit(X, groups=machines)
    >>> detector.predict([[8, 8, 8, 8], [8, 8, 8, 8]], groups=["pump", "fan"])
    array([ 1, -1])
    """

    _parameter_constraints = {
        "detector": [HasMethods(["fit", "score_samples"]), None],
        "pooled": ["boolean", StrOptions({"auto"})],
    }

    def __init__(self, detector: BaseEstimator | None = None, *, pooled: bool | str = False):
        self.detector = detector
        self.pooled = pooled

    @_fit_context(prefer_skip_nested_validation=False)  # each detector validates its parameters
    def fit(
        self,
        X: ArrayLike,
        y: Any = None,
        *,
        groups: Iterable | None = None,
        domains: Iterable | None = None,
        sessions: Iterable | None = None,
    ) -> Self:
        """Fit one clone of `detector` to the clips of each group.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
            One embedding per normal clip; for a detector of maps, the tokens of shape
            (n_clips, n_time, n_freq, n_features).
        y : Ignored
            Not used, present for API consistency.
        groups : iterable of hashables of length n_clips, default=None
            The machine of each clip. None puts all clips in one group.
        domains, sessions : iterable of hashables of length n_clips, default=None
            Passed to the detector of each group, if its `fit` takes them.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If the detector of a group cannot be fitted, if metadata has another length than `X`, or
            if groups are to be pooled and the detector compares clips with no single domains.
        """
        warn_of_anomalies(y)
        rows = validate_rows(self, X, reset=True)
        n_clips = len(rows)
        metadata = list_metadata(n_clips, domains=domains, sessions=sessions)
        members = rows_by_label(groups, n_clips, "groups")
        detector = calibrated(_or_default(self.detector))
        end = last_step(detector)
        can_pool = isinstance(end, BaseDetector) and not isinstance(end, MapDetector)
        if self.pooled is True and not can_pool:
            raise ValueError(
                "With pooled=True, detector must compare a clip with domains, as "
                f"MahalanobisDetector() does. Got {self.detector!r} instead."
            )
        self.pooled_ = can_pool and "domains" in metadata if self.pooled == "auto" else self.pooled
        if self.pooled_:
            self._fit_pooled(detector, rows, members, metadata)
        else:
            self._fit_each(detector, rows, members, metadata)
        self.group_rows_ = members
        self._place_offset()
        return self

    def _fit_each(self, detector: Any, X: NDArray, members: dict, metadata: dict) -> None:
        """Fit one detector to each group."""
        self.detectors_: dict[Hashable, Any] = {}
        self.session_weights_ = np.zeros(len(X))
        for group, own in members.items():
            try:
                fitted = fit_with(clone(detector), X[own], rows_of(metadata, own))
            except ValueError as error:
                if group is None and len(members) == 1:
                    raise
                raise ValueError(f"The detector of group {group!r} has no fit: {error}") from error
            self.detectors_[group] = fitted
            self.session_weights_[own] = last_step(fitted).session_weights_

    def _fit_pooled(self, detector: Any, X: NDArray, members: dict, metadata: dict) -> None:
        """Fit one detector to the domains of all groups."""
        domains = metadata.get("domains", [None] * len(X))
        group_of = {row: group for group, own in members.items() for row in own}
        pairs = [(group_of[row], domain) for row, domain in enumerate(domains)]
        fit_with(detector, X, {**metadata, "domains": pairs})
        end = last_step(detector)
        self.detectors_ = dict.fromkeys(members, detector)
        self.columns_ = {
            group: [i for i, (owner, _) in enumerate(end.domains_) if owner == group]
            for group in members
        }
        self.session_weights_ = end.session_weights_
        for group, own in members.items():
            if np.isnan(end.own_domain_scores_[own]).all():
                raise ValueError(
                    f"Group {group!r} has no clips to place its threshold by. Give it clips of two "
                    "sessions or more that can be read, or set pooled=False."
                )

    def _place_offset(self) -> None:
        """Place the threshold of each group at a distance of 1."""
        self.offset_ = -1.0
        self.thresholds_, self.scales_, distances = {}, {}, {}
        for group, own in self.group_rows_.items():
            end, weights = last_step(self.detectors_[group]), self.session_weights_[own]
            if self.pooled_:
                distances[group] = -end.own_domain_scores_[own]
                self.thresholds_[group] = end._threshold_of(distances[group], weights)
            else:
                distances[group] = -end.training_scores_
                self.thresholds_[group] = -float(end.offset_)
            self.scales_[group] = DistanceScale(distances[group], weights)
        self.unit_ = float(np.mean([scale.deviation for scale in self.scales_.values()])) or 1.0
        self.training_scores_ = np.empty(len(self.session_weights_))
        for group, own in self.group_rows_.items():
            self.training_scores_[own] = -self._relative(distances[group], group)

    def _relative(self, distances: NDArray, group: Hashable) -> NDArray[np.float64]:
        """Return the distances of a group on the scale of all groups, where 1 is the threshold."""
        scale = self.scales_[group]
        threshold = scale.standardize(np.array(self.thresholds_[group]))
        return exp(self.unit_ * (scale.standardize(distances) - threshold))

    def select_group(self, group: Hashable) -> Self:
        """Return a detector of one group alone.

        Parameters
        ----------
        group : hashable
            One of the groups of `fit`.

        Returns
        -------
        selected : GroupedDetector
            A fitted detector. Clips of the group have the same scores as before. It shares its
            arrays with this detector.

        Raises
        ------
        ValueError
            If `fit` did not get this group. If groups are pooled, because they share one detector.
        """
        check_is_fitted(self)
        self._check_group(group)
        if self.pooled_:
            raise ValueError(
                "The groups share one detector, since fit was given domains or labels "
                "(pooled=True), and none can be taken out. Fit without them."
            )
        selected, own = copy(self), self.group_rows_[group]
        selected.detectors_ = {group: self.detectors_[group]}
        selected.thresholds_ = {group: self.thresholds_[group]}
        selected.scales_ = {group: self.scales_[group]}
        selected.group_rows_ = {group: np.arange(len(own))}
        selected.training_scores_ = self.training_scores_[own]
        selected.session_weights_ = self.session_weights_[own]
        return selected

    def _check_group(self, group: Hashable) -> None:
        if group not in self.group_rows_:
            known = ", ".join(map(repr, self.group_rows_))
            raise ValueError(f"Group {group!r} was not seen in fit. The groups are: {known}.")

    def _set_rate(self, rate: float) -> None:
        for detector in self.detectors_.values():
            last_step(detector).set_false_alarm_rate(rate)
        self.detector = with_threshold(_or_default(self.detector), false_alarm_rate=rate)
        self._place_offset()

    def score_samples(self, X: ArrayLike, *, groups: Iterable | None = None) -> NDArray[np.float64]:
        """Return minus the distance of each clip, on a scale where 1 is the threshold of its group.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
            One embedding per clip. A row of nothing but NaN scores NaN.
        groups : iterable of hashables of length n_clips, default=None
            The group of each clip. None takes the highest score over all groups.

        Returns
        -------
        scores : ndarray of shape (n_clips,)
            Float64, higher = more normal.
        """
        return self._by_group(X, groups, self._score)

    def p_values(  # type: ignore[override]
        self, X: ArrayLike, *, groups: Iterable | None = None
    ) -> NDArray[np.float64]:
        """Return conformal p-values within the group; takes what `score_samples` takes."""

        def p_values(inputs: NDArray, group: Hashable) -> NDArray[np.float64]:
            own = self.group_rows_[group]
            return conformal_p_values(
                self._score(inputs, group), self.training_scores_[own], self.session_weights_[own]
            )

        return self._by_group(X, groups, p_values)

    @available_if(lambda self: hasattr(last_step(_or_default(self.detector)), "anomaly_map"))
    def anomaly_map(self, X: ArrayLike, *, groups: Iterable | None = None) -> NDArray[np.float64]:
        """Return the anomaly of each cell of time and frequency, where the detectors have maps.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_time, n_freq, n_dims)
            Tokens.
        groups : iterable of hashables of length n_clips, default=None
            The group of each clip. None takes the group of the highest score.

        Returns
        -------
        maps : ndarray of shape (n_clips, n_time, n_freq)
            Float64, 1 is the threshold.
        """

        def maps(rows: NDArray, group: Hashable) -> NDArray[np.float64]:
            end, rows = at_the_end(self.detectors_[group], rows)
            return end.anomaly_map(rows)

        check_is_fitted(self)
        if groups is None:
            rows = validate_rows(self, X, reset=False)
            scores = np.stack([self._score(rows, group) for group in self.group_rows_])
            best = np.where(np.isnan(scores), -np.inf, scores).argmax(axis=0)
            names = list(self.group_rows_)
            groups = [names[index] for index in best]
        return self._by_group(X, groups, maps)

    def _by_group(self, X: ArrayLike, groups: Iterable | None, method: Any) -> NDArray[np.float64]:
        """Call a method with the clips of each group; None takes the highest of all."""
        check_is_fitted(self)
        inputs = validate_rows(self, X, reset=False)
        if self.pooled_:  # the detector is the same for all groups
            end, inputs = at_the_end(next(iter(self.detectors_.values())), inputs)
            inputs, _ = end._domain_scores(inputs)
        if groups is None:
            return np.max([method(inputs, group) for group in self.group_rows_], axis=0)
        values: Any = None
        for group, own in rows_by_label(groups, len(inputs), "groups").items():
            self._check_group(group)
            part = method(inputs[own], group)
            values = np.empty((len(inputs), *part.shape[1:])) if values is None else values
            values[own] = part
        return values

    def _score(self, inputs: NDArray, group: Hashable) -> NDArray[np.float64]:
        """Return the scores of clips of a group; pooled, of their scores by each domain."""
        if self.pooled_:
            scores = inputs[:, self.columns_[group]].max(axis=1)
        else:
            scores = self.detectors_[group].score_samples(inputs)
        return -self._relative(-scores, group)


def _or_default(detector: BaseEstimator | None) -> BaseEstimator:
    return MahalanobisDetector() if detector is None else detector


def with_threshold(detector: BaseEstimator, **parameters: Any) -> BaseEstimator:
    """Return a clone of a detector with another `false_alarm_rate` or `threshold`.

    A detector without a threshold is put into a `CalibratedDetector`. Of a pipeline the last step
    gets the parameters, of a `GroupedDetector` the detector of each group.
    """
    detector = calibrated(detector)
    end = last_step(detector)
    if isinstance(end, GroupedDetector):
        end.set_params(detector=with_threshold(_or_default(end.detector), **parameters))
    else:
        end.set_params(**parameters)
    return detector
